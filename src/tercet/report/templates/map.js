// The map: points on a canvas, a panel with the chosen item and its neighbours, and no library.
(() => {
  const data = JSON.parse(document.getElementById("map-data").textContent);
  const canvas = document.getElementById("map");
  const brush = canvas.getContext("2d");
  const element = (name) => document.getElementById("map-" + name);
  const count = data.neighbours.length;
  const COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00"];
  const SHAPES = [[0, 40], [4, .785], [3, -1.571], [4, 0], [3, 1.571], [5, -1.571]];  // corners, turn; 0 is a disc
  const RADIUS = 4.5, REACH = 14, LISTED = 12;
  const compare = new Intl.Collator(undefined, {numeric: true}).compare;
  const classes = [...new Set(data.items.slice(0, count).map((item) => item.class))].sort(compare);
  const code = new Map(classes.map((name, place) => [name, place]));
  const kinds = data.items.slice(0, count).map((item) => code.get(item.class));
  let layout = data.layouts[0], chosen = -1, view, shown = [];

  const box = () => ({width: canvas.clientWidth, height: canvas.clientHeight});
  const place = (point) => [(layout.x[point] - view.x) * view.scale + box().width / 2,
                            box().height / 2 - (layout.y[point] - view.y) * view.scale];

  function seeAll() {
    const of = shown.length ? shown : [...layout.x.keys()];
    const ends = [layout.x, layout.y].map((values) => of.reduce(
      ([low, high], point) => [Math.min(low, values[point]), Math.max(high, values[point])], [Infinity, -Infinity]));
    const [[left, right], [bottom, top]] = ends;
    const scale = Math.min((box().width - 40) / (right - left || 1), (box().height - 40) / (top - bottom || 1));
    view = {x: (left + right) / 2, y: (bottom + top) / 2, scale: scale > 0 ? scale : 1};
  }

  function zoom(factor, at) {
    const {width, height} = box();
    const [x, y] = at || [width / 2, height / 2];
    const [dx, dy] = [(x - width / 2) / view.scale, (height / 2 - y) / view.scale];
    view.x += dx - dx / factor;
    view.y += dy - dy / factor;
    view.scale *= factor;
    draw();
  }

  function mark(on, kind, x, y, radius) {
    const [corners, turn] = SHAPES[Math.floor(kind / COLOURS.length) % SHAPES.length];
    on.beginPath();
    if (!corners) {
      on.arc(x, y, radius, 0, 2 * Math.PI);
    } else {
      for (let corner = 0; corner < corners; corner++) {
        const angle = turn + corner * 2 * Math.PI / corners;
        on.lineTo(x + 1.25 * radius * Math.cos(angle), y + 1.25 * radius * Math.sin(angle));
      }
      on.closePath();
    }
    on.fillStyle = COLOURS[kind % COLOURS.length];
    on.fill();
    on.stroke();
  }

  function draw() {
    const ratio = devicePixelRatio || 1, {width, height} = box();
    const style = getComputedStyle(document.documentElement);
    const ink = style.getPropertyValue("--ink").trim();
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
    brush.setTransform(ratio, 0, 0, ratio, 0, 0);
    brush.lineWidth = .75;
    brush.strokeStyle = style.getPropertyValue("--panel").trim();
    for (const point of shown) {
      mark(brush, kinds[point], ...place(point), RADIUS);
    }
    if (chosen >= 0) {
      drawChosen(ink);
    }
  }

  function drawChosen(ink) {
    const [x, y] = place(chosen);
    brush.strokeStyle = ink;
    data.neighbours[chosen].forEach((near, rank) => {
      if (near < count) {
        brush.setLineDash(isRight(chosen, rank) ? [] : [4, 4]);
        brush.lineWidth = 1;
        brush.beginPath();
        brush.moveTo(x, y);
        brush.lineTo(...place(near));
        brush.stroke();
        brush.setLineDash([]);
        mark(brush, kinds[near], ...place(near), RADIUS + 1);
      }
    });
    brush.lineWidth = 2;
    mark(brush, kinds[chosen], x, y, RADIUS + 3);
  }

  const isRight = (point, rank) => !data.right || data.right[point][rank] === 1;

  function filter() {
    const wanted = element("class") ? element("class").value : "";
    const wrong = element("wrong") && element("wrong").checked;
    shown = [...Array(count).keys()].filter((point) =>
      (wanted === "" || kinds[point] === Number(wanted)) &&
      (!wrong || (data.neighbours[point].length > 0 && !isRight(point, 0))));
    legend();
    draw();
  }

  function legend() {
    const present = [...new Set(shown.map((point) => kinds[point]))].sort((one, other) => one - other);
    const entries = classes.length < 2 && !classes[0] ? [] : present.slice(0, LISTED).map((kind) => {
      const picture = document.createElement("canvas");
      picture.width = picture.height = 28;
      picture.style.width = picture.style.height = "14px";
      const pen = picture.getContext("2d");
      pen.strokeStyle = "transparent";
      mark(pen, kind, 14, 14, 9);
      return made("li", {}, picture, made("bdi", {}, classes[kind]));
    });
    if (present.length > LISTED) {
      entries.push(made("li", {}, `and ${present.length - LISTED} more classes`));
    }
    if (!shown.length) {
      entries.push(made("li", {}, "no item is like that"));
    }
    element("legend").replaceChildren(...entries);
  }

  function made(tag, attributes, ...inside) {
    const found = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      found.setAttribute(name, value);
    }
    found.append(...inside.filter((part) => part !== ""));
    return found;
  }

  function choose(point) {
    chosen = point;
    const panel = element("item");
    if (point < 0) {
      panel.replaceChildren(made("p", {class: "muted"}, "No item is chosen."));
    } else {
      const item = data.items[point];
      const known = data.right ? "" : " by distance";
      panel.replaceChildren(
        item.picture ? made("img", {src: item.picture, alt: item.name, class: "large"}) : "",
        item.text ? made("blockquote", {dir: "auto"}, item.text) : "",
        made("h3", {}, made("bdi", {}, item.name)),
        made("p", {class: "muted"}, made("bdi", {}, item.class)),
        made("p", {}, `Its ${data.neighbours[point].length} nearest neighbours${known}:`),
        made("ol", {}, ...data.neighbours[point].map((near, rank) => neighbour(point, near, rank))));
      const [x, y] = place(point), {width, height} = box();
      if (x < 0 || y < 0 || x > width || y > height) {
        view.x = layout.x[point];
        view.y = layout.y[point];
      }
    }
    draw();
  }

  function neighbour(point, near, rank) {
    const item = data.items[near];
    const right = isRight(point, rank);
    const verdict = data.right
      ? made("span", {class: right ? "good" : "bad"}, right ? "✓ same class" : "✗ other class") : "";
    const name = near < count ? made("button", {type: "button", class: "link"}, made("bdi", {}, item.name))
                              : made("bdi", {}, item.name);
    if (near < count) {
      name.addEventListener("click", () => choose(near));
    }
    const words = made("span", {}, name, item.class ? made("span", {class: "muted"}, " ", made("bdi", {}, item.class)) : "",
                       made("br", {}), verdict, ` distance ${data.distances[point][rank]}`);
    return made("li", {class: right ? "right" : "wrong"},
                item.picture ? made("img", {src: item.picture, alt: ""}) : "", words);
  }

  function nearestTo(x, y, reach) {
    let best = -1, least = reach * reach;
    for (const point of shown) {
      const [left, top] = place(point);
      const far = (left - x) ** 2 + (top - y) ** 2;
      if (far <= least) {
        [best, least] = [point, far];
      }
    }
    return best;
  }

  function step(right, up) {
    if (chosen < 0) {
      return choose(nearestTo(box().width / 2, box().height / 2, 1e9));
    }
    const [x, y] = place(chosen);
    let best = -1, least = Infinity;
    for (const point of shown) {
      const [left, top] = place(point);
      const along = (left - x) * right - (top - y) * up, aside = Math.abs((left - x) * up) + Math.abs((top - y) * right);
      const cost = along + 2 * aside;
      if (point !== chosen && along > 0 && aside <= along && cost < least) {
        [best, least] = [point, cost];
      }
    }
    if (best >= 0) {
      choose(best);
    }
  }

  const KEYS = {
    ArrowLeft: () => step(-1, 0), ArrowRight: () => step(1, 0), ArrowUp: () => step(0, 1), ArrowDown: () => step(0, -1),
    "+": () => zoom(1.5), "=": () => zoom(1.5), "-": () => zoom(1 / 1.5), "0": () => { seeAll(); draw(); },
    Escape: () => choose(-1),
  };
  canvas.addEventListener("keydown", (event) => {
    if (KEYS[event.key] && !event.ctrlKey && !event.metaKey && !event.altKey) {
      event.preventDefault();
      KEYS[event.key]();
    }
  });

  // Until it is clicked the map leaves wheel and fingers to the page, which would otherwise not scroll past it.
  const isActive = () => document.activeElement === canvas;
  canvas.addEventListener("focus", () => { canvas.style.touchAction = "none"; });
  canvas.addEventListener("blur", () => { canvas.style.touchAction = ""; });
  canvas.addEventListener("wheel", (event) => {
    if (isActive()) {
      event.preventDefault();
      zoom(Math.exp(-event.deltaY / 400), [event.offsetX, event.offsetY]);
    }
  }, {passive: false});
  const fingers = new Map();
  let moved = 0;
  canvas.addEventListener("pointerdown", (event) => {
    fingers.set(event.pointerId, [event.offsetX, event.offsetY]);
    canvas.setPointerCapture(event.pointerId);
    moved = fingers.size > 1 ? Infinity : 0;
  });
  canvas.addEventListener("pointermove", (event) => {
    const before = fingers.get(event.pointerId), now = [event.offsetX, event.offsetY];
    if (!before) {
      const over = nearestTo(...now, REACH);
      canvas.title = over < 0 ? "" : data.items[over].name;
      return;
    }
    fingers.set(event.pointerId, now);
    if (fingers.size === 1) {
      moved += Math.hypot(now[0] - before[0], now[1] - before[1]);
      if (moved > 4) {
        view.x -= (now[0] - before[0]) / view.scale;
        view.y += (now[1] - before[1]) / view.scale;
        draw();
      }
    } else if (fingers.size === 2) {
      const other = [...fingers].find(([id]) => id !== event.pointerId)[1];
      const apart = (point) => Math.hypot(point[0] - other[0], point[1] - other[1]) || 1;
      zoom(apart(now) / apart(before), other);
    }
  });
  const lift = (event) => {
    fingers.delete(event.pointerId);
    if (event.type === "pointerup" && moved <= 4) {
      choose(nearestTo(event.offsetX, event.offsetY, REACH));
    }
  };
  canvas.addEventListener("pointerup", lift);
  canvas.addEventListener("pointercancel", lift);

  element("in").addEventListener("click", () => zoom(1.5));
  element("out").addEventListener("click", () => zoom(1 / 1.5));
  element("all").addEventListener("click", () => { seeAll(); draw(); });
  if (element("class")) {
    element("class").append(...classes.map((name, place) => made("option", {value: place}, name)));
    element("class").addEventListener("change", filter);
  }
  if (element("wrong")) {
    element("wrong").addEventListener("change", filter);
  }
  if (element("layout")) {
    element("layout").addEventListener("change", (event) => {
      layout = data.layouts[Number(event.target.value)];
      element("caption").textContent = layout.caption;
      seeAll();
      draw();
    });
  }
  element("find").addEventListener("focus", () => {  // two thousand names are made when they are wanted
    if (!element("names").children.length) {
      element("names").append(...data.items.slice(0, count).map((item) => made("option", {value: item.name})));
    }
  });
  element("find").addEventListener("change", (event) => {
    const found = data.items.slice(0, count).findIndex((item) => item.name === event.target.value);
    if (found >= 0) {
      choose(found);
    }
  });
  element("csv").addEventListener("click", () => {
    const cell = (value) => `"${String(value).replaceAll('"', '""')}"`;
    const rows = layout.x.map((x, point) => [cell(data.items[point].name), cell(data.items[point].class), x, layout.y[point]]);
    const content = [["name", "class", "x", "y"], ...rows].map((row) => row.join(",")).join("\n") + "\n";
    const address = URL.createObjectURL(new Blob([content], {type: "text/csv"}));
    const link = made("a", {href: address, download: "map.csv"});
    link.click();
    setTimeout(() => URL.revokeObjectURL(address), 1000);
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  let width = 0;
  new ResizeObserver(() => {
    if (box().width !== width) {  // a change of height alone is a phone's address bar
      width = box().width;
      seeAll();
    }
    draw();
  }).observe(canvas);
  shown = [...Array(count).keys()];
  seeAll();
  filter();
})();
