// Canvas does not follow CSS: give axes and grids the colours of the page, again when these change.
function paint() {
  const style = getComputedStyle(document.documentElement);
  const ink = style.getPropertyValue("--muted").trim();
  const line = style.getPropertyValue("--line").trim();
  for (const shown of Bokeh.documents) {
    for (const model of shown.all_models) {
      if (model.type.endsWith("Axis")) {
        model.setv({axis_label_text_color: ink, major_label_text_color: ink,
                    axis_line_color: line, major_tick_line_color: line});
      } else if (model.type === "Grid") {
        model.setv({grid_line_color: line});
      }
    }
  }
}
Promise.all([...document.querySelectorAll(".chart-data")]
  .map((data) => Bokeh.embed.embed_item(JSON.parse(data.textContent)))).then(paint);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paint);
