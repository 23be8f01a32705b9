import json
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset, IterableDataset

from tercet.data.readers import read
from tercet.errors import DataError, InputError


def picture(path, value=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (8, 8), value % 256).save(path)
    return path


def table(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def message(*args, error=DataError, **kwargs):
    with pytest.raises(error) as caught:
        read(*args, **kwargs)
    return str(caught.value)


# Folders


@pytest.fixture
def faces(tmp_path):
    for place, name in enumerate(["anna/1.png", "anna/2.JPG", "ben/a/1.png", "ben/b/1.png", "carl/x.png"]):
        picture(tmp_path / "faces" / name, 40 * place)
    return tmp_path / "faces"


def test_a_subfolder_is_a_class_with_whatever_lies_below(faces):
    records = read(faces)
    assert (records.kind, records.form, records.classes) == ("image", "labels", ("anna", "ben", "carl"))
    assert records.names == ["anna/1.png", "anna/2.JPG", "ben/a/1.png", "ben/b/1.png", "carl/x.png"]
    assert records.labels.tolist() == [0, 0, 1, 1, 2]
    assert records.labels.dtype == np.int64
    assert records.items == [str(faces / name) for name in records.names]
    assert records.skipped == ()
    assert records.description == "5 images in 3 classes (folder with a subfolder for each class)"
    assert (len(records), records.source) == (5, str(faces))


def test_other_files_are_passed_over_and_counted(faces):
    (faces / "anna" / "notes.md").write_text("x")
    (faces / "anna" / ".DS_Store").write_text("x")
    (faces / ".git").mkdir()
    (faces / ".git" / "x.png").write_text("x")
    picture(faces / "loose.png")
    records = read(faces)
    assert len(records) == 5
    assert {(one.name, one.reason) for one in records.skipped} == {
        ("anna/notes.md", "not an image"),
        ("anna/.DS_Store", "hidden"),
        (".git", "hidden"),
        ("loose.png", "not in the subfolder of a class"),
    }


def test_links_are_followed_but_not_in_circles(faces):
    os.symlink(faces, faces / "carl" / "again")
    os.symlink(faces / "ben", faces / "dora")
    records = read(faces)
    assert records.names[-3:] == ["carl/x.png", "dora/a/1.png", "dora/b/1.png"]
    assert [(one.name, one.reason) for one in records.skipped] == [("carl/again", "a link to a folder above it")]


def test_a_folder_of_texts(tmp_path):
    for name, text in {
        "news/1.txt": "Gold rises",
        "news/2.txt": "Rain\nagain",
        "verse/1.txt": "O rose",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    records = read(tmp_path)
    assert (records.kind, list(records.items)) == ("text", ["Gold rises", "Rain\nagain", "O rose"])
    assert records.description == "3 texts in 2 classes (folder with a subfolder for each class of .txt files)"
    (tmp_path / "news" / "3.txt").write_text(" \n")
    assert message(tmp_path) == f"{tmp_path}/news/3.txt is empty."
    (tmp_path / "news" / "3.txt").write_bytes(b"fine\nnot \xe9 so")
    assert message(tmp_path) == f"{tmp_path}/news/3.txt:2: not UTF-8 (byte 0xe9); save the file as UTF-8."


def test_a_folder_without_subfolders(tmp_path):
    picture(tmp_path / "a.png")
    picture(tmp_path / "b.png")
    assert message(tmp_path) == (
        f"{tmp_path} holds 2 images but no subfolders, so nothing says which belong together. Expected is a "
        f"subfolder for each class ({tmp_path}/first/a.png, {tmp_path}/second/b.png), or a table with a "
        f"column of paths and a column of labels. tercet train takes it as it is with --views 2."
    )
    records = read(tmp_path, labelled=False)
    assert (records.form, records.labels, records.names) == ("items", None, ["a.png", "b.png"])
    assert records.description == "2 images (folder)"


def test_labels_are_taken_where_they_are_plain(faces):
    assert read(faces, labelled=False).form == "labels"
    assert read(faces, form="items").form == "items"
    picture(faces / "loose.png")
    mixed = read(faces, labelled=False)
    assert (mixed.form, len(mixed)) == ("items", 6)


def test_folders_that_cannot_be_used(tmp_path):
    picture(tmp_path / "one" / "anna" / "1.png")
    one = tmp_path / "one"
    assert message(one) == f"{one} holds a single class, 'anna'; at least two are needed to tell apart."
    picture(tmp_path / "split" / "train" / "1.png")
    picture(tmp_path / "split" / "test" / "1.png")
    split = tmp_path / "split"
    assert message(split) == (
        f"{split} holds the subfolders test, train, which look like parts of a data set, not classes. "
        f"Give one of them, such as {split}/test."
    )
    empty = tmp_path / "empty"
    (empty / "a").mkdir(parents=True)
    assert message(empty) == f"{empty} holds no images."
    (empty / "a" / "x.doc").write_text("x")
    assert message(empty) == f"{empty} holds no images. a/x.doc: not an image."
    assert "--kind is 'tabular'" in message(split, kind="tabular", error=InputError)
    assert "--form is 'pairs'" in message(split, form="pairs", error=InputError)
    assert "--label and --columns can only be given for a table" in message(
        split, label="x", columns=["y"], error=InputError
    )


def test_a_source_that_does_not_exist(faces):
    assert message(faces.parent / "face") == f"{faces.parent}/face does not exist. Did you mean 'faces'?"
    assert message(faces / "x" / "y") == f"{faces}/x/y does not exist. Neither does {faces}/x."
    (faces / "a.xlsx").write_text("x")
    assert "(.xlsx). Allowed are a folder, an image" in message(faces / "a.xlsx")


def test_single_files(tmp_path):
    path = picture(tmp_path / "a.png")
    assert read(str(path), labelled=False).items == [str(path)]
    assert message(path) == f"{path} is a single image, which has no labels; give a folder or a table."
    lines = table(tmp_path / "a.txt", "first line\nsecond " + "x" * 80 + "\n\n")
    records = read(lines, labelled=False)
    assert records.items == ["first line", "second " + "x" * 80]
    assert records.names == ["first line", "second " + "x" * 52 + "…"]
    assert message(table(lines, "a\n\nb"), labelled=False) == f"{lines}:2: the line is empty; remove it."
    assert message(table(lines, ""), labelled=False) == f"{lines} is empty."
    assert "which has no labels" in message(lines)


# Tables


def write(path, columns):
    """The same columns as CSV, TSV, JSON lines or Parquet, by the ending."""
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    if path.suffix == ".parquet":
        pa.parquet.write_table(pa.table(columns), path)
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(row) for row in rows))
    else:
        mark = "\t" if path.suffix == ".tsv" else ","
        path.write_text("\n".join(mark.join(map(str, row)) for row in [list(columns), *(r.values() for r in rows)]))
    return path


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "parquet"])
def test_a_table_of_numbers(tmp_path, ending):
    columns = {"length": [5.1, 4.9, 6.25], "species": ["b", "a", "b"], "width": [3, 2, 1]}
    records = read(write(tmp_path / f"iris.{ending}", columns))
    assert (records.kind, records.columns, records.classes) == ("tabular", ("length", "width"), ("a", "b"))
    assert records.items.dtype == np.float32
    np.testing.assert_array_equal(records.items, np.float32([[5.1, 3], [4.9, 2], [6.25, 1]]))
    assert records.labels.tolist() == [1, 0, 1]
    assert records.description == f"3 rows in 2 classes ({ending} table, labels in 'species')"
    assert records.names[2] == ("line 3" if ending == "jsonl" else "row 3")


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_a_table_of_texts(tmp_path, ending):
    columns = {
        "Text": ["one, two" if ending != "csv" else "one", "two"],
        "Label": [10, 9],
        "extra": ["x", "y"],
    }
    records = read(write(tmp_path / f"t.{ending}", columns))
    assert (records.kind, records.classes, records.labels.tolist()) == ("text", ("9", "10"), [1, 0])
    assert records.items == columns["Text"]
    assert records.description == f"2 texts in 2 classes ({ending} table, labels in 'Label'; not used: extra)"


def test_labels_keep_their_zeros(tmp_path):
    records = read(table(tmp_path / "t.csv", "text,class\nx,007\ny,7\n"))
    assert records.classes == ("007", "7")


def test_whole_labels_are_the_same_word_in_every_format(tmp_path):
    columns = {"label": [1.0, 2.0], "x": [0.5, 0.25]}
    for ending in ("jsonl", "parquet"):
        assert read(write(tmp_path / f"t.{ending}", columns)).classes == ("1", "2")


def test_a_table_of_images(tmp_path):
    for place in range(3):
        picture(tmp_path / "pics" / f"{place}.png", place)
    columns = {"path": [f"pics/{i}.png" for i in range(3)], "person": ["a", "b", "a"]}
    records = read(write(tmp_path / "t.csv", columns))
    assert (records.kind, records.names) == ("image", columns["path"])
    assert records.items == [str(tmp_path / path) for path in columns["path"]]
    columns["path"] = [f"{i}.png" for i in range(3)]
    assert read(write(tmp_path / "t.csv", columns), root=tmp_path / "pics").items[0] == str(tmp_path / "pics/0.png")


def test_missing_images_are_left_out_and_told(tmp_path):
    picture(tmp_path / "0.png")
    picture(tmp_path / "1.png")
    path = write(tmp_path / "t.csv", {"path": ["0.png", "5.png", "1.png"], "label": ["a", "b", "c"]})
    records = read(path)
    assert (records.names, records.classes, records.labels.tolist()) == (
        ["0.png", "1.png"],
        ("a", "c"),
        [0, 1],
    )
    assert [(one.name, one.reason) for one in records.skipped] == [("5.png", "no such file")]
    path = write(tmp_path / "t.csv", {"path": [f"{i}.png" for i in range(5, 10)], "label": list("abcde")})
    assert message(path) == (
        f"{path}: none of the 5 images was found. 5.png: no such file; 6.png: no such file; 7.png: no such "
        f"file; and 2 more. Paths start from the table's folder or the current one; say --root FOLDER for "
        f"another."
    )


def test_triplets_share_their_items(tmp_path):
    columns = {"anchor": ["cat", "dog"], "negative": ["car", "cat"], "positive": ["kitten", "cat"]}
    columns["negative"][1] = "tree"
    records = read(write(tmp_path / "t.csv", columns))
    assert (records.form, records.kind, records.labels) == ("triplets", "text", None)
    assert records.items == ["cat", "kitten", "car", "dog", "tree"]
    assert records.tuples.tolist() == [[0, 1, 2], [3, 0, 4]]
    assert records.description == "2 triplets of 5 texts (csv table, triplets in 'anchor', 'positive', 'negative')"


def test_triplets_that_contradict_themselves_are_left_out(tmp_path):
    path = table(tmp_path / "t.csv", "anchor,positive,negative\na,b,c\na,b,a\na,c,c\n")
    records = read(path)
    assert records.tuples.tolist() == [[0, 1, 2]]
    reason = "the negative is the anchor or the positive itself"
    assert [(one.name, one.reason) for one in records.skipped] == [("row 2", reason), ("row 3", reason)]
    assert "in every triplet" in message(table(path, "anchor,positive,negative\na,b,a\n"))


@pytest.mark.parametrize("names", [("anchor", "positive"), ("sentence1", "sentence2"), ("query", "document")])
def test_pairs(tmp_path, names):
    records = read(write(tmp_path / "t.csv", {names[0]: ["a", "b"], names[1]: ["c", "a"]}))
    assert (records.form, records.tuples.tolist(), records.similar) == ("pairs", [[0, 1], [2, 0]], None)


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_marked_pairs(tmp_path, ending):
    columns = {"left": ["a", "b", "c"], "right": ["c", "a", "b"], "similar": [True, False, True]}
    records = read(write(tmp_path / f"t.{ending}", columns))
    assert (records.form, records.similar.tolist()) == ("marked-pairs", [True, False, True])
    columns["similar"] = [1, 0, 0]
    path = write(tmp_path / f"t.{ending}", columns)
    assert read(path).similar.tolist() == [True, False, False]
    assert read(path, form="pairs").form == "pairs"
    columns["similar"] = [1.0, 0.5, 0.0]
    where = "line 2" if ending == "jsonl" else "row 2"
    assert message(write(tmp_path / f"t.{ending}", columns)) == (
        f"{path}, {where}, column 'similar': '0.5' does not say whether the pair is similar; allowed are 1 "
        f"and 0, or true and false. Name another column with --label, or say --form pairs if every pair is "
        f"similar."
    )


def test_image_pairs_whose_files_are_missing_are_left_out(tmp_path):
    for place in range(3):
        picture(tmp_path / f"{place}.png", place)
    path = table(tmp_path / "t.csv", "image1,image2\n0.png,1.png\n0.png,9.png\n./1.png,2.png\n")
    records = read(path)
    assert (records.kind, records.names) == ("image", ["0.png", "1.png", "2.png"])
    assert records.tuples.tolist() == [[0, 1], [1, 2]]
    assert [one.name for one in records.skipped] == ["9.png"]


def test_what_the_user_says_overrules_what_is_found(tmp_path):
    path = table(tmp_path / "t.csv", "x,y,z,label,class\n1,2,3,a,b\n4,5,6,c,d\n")
    assert read(path, label="class", columns=["x", "z"]).columns == ("x", "z")
    assert read(path, label="z", columns=["x", "y"]).classes == ("3", "6")
    numbers = table(tmp_path / "n.csv", "text,label\n12,a\n13,b\n")
    assert read(numbers, kind="text").items == ["12", "13"]
    triplets = table(tmp_path / "u.csv", "p,q,r\na,b,c\n")
    assert read(triplets, form="triplets", columns=["r", "q", "p"]).items == ["c", "b", "a"]
    assert read(path, labelled=False, columns=["x", "z"]).form == "items"


def test_features_a_and_b_are_not_pairs(tmp_path):
    records = read(table(tmp_path / "t.csv", "a,b,label\n1,2,u\n3,4,v\n"))
    assert (records.form, records.columns) == ("labels", ("a", "b"))


MESSAGES = {
    "nan": (
        "a,b,label\n1,2,u\n1,nan,v\n",
        "{0}, row 2, column 'b': the value is missing (NaN). Fill it in, remove the row, or leave the "
        "column out with --columns.",
    ),
    "missing": (
        "a,b,label\n1,,u\n,2,v\n",
        "{0}, row 1, column 'b': the value is missing (NaN). Fill it in, remove the row, or leave the "
        "column out with --columns. There are 2 such values.",
    ),
    "infinite": (
        "a,b,label\n1,2,u\n1,-inf,v\n",
        "{0}, row 2, column 'b': the value is -inf, which float32 cannot hold. Fill it in, remove the row, "
        "or leave the column out with --columns.",
    ),
    "too large": (
        "a,b,label\n1,2,u\n1,1e39,v\n",
        "{0}, row 2, column 'b': the value is 1e+39, which float32 cannot hold. Fill it in, remove the row, "
        "or leave the column out with --columns.",
    ),
    "a word among numbers": (
        "a,b,label\n1,2,u\n1,many,v\n3,4,v\n",
        "{0}, row 2, column 'b': 'many' is not a number (most of the column's cells are numbers). Correct "
        "it, leave the column out with --columns, or take its words as categories with --categories b.",
    ),
    "empty text": (
        "text,label\nx,u\n ,v\n",
        "{0}, row 2, column 'text': the cell is empty. Fill it in or remove the row.",
    ),
    "missing label": (
        "text,label\nx,u\ny,\n",
        "{0}, row 2, column 'label': the label is missing. Fill it in or remove the row.",
    ),
    "no labels": (
        "text,size\nx,1\ny,2\n",
        "{0}: no column of labels found. Its columns are text, size; say which with --label.",
    ),
    "many labels": (
        "text,label,Class\nx,1,2\ny,2,3\n",
        "{0}: the columns label, Class could all be the labels. Its columns are text, label, Class; say "
        "which with --label.",
    ),
    "one class": (
        "text,label\nx,u\ny,u\n",
        "{0} holds a single class, 'u' in column 'label'; at least two are needed to tell apart.",
    ),
    "only a header": ("text,label\n", "{0} holds no rows, only a header."),
    "empty": ("", "{0} is empty."),
    "twice": ("a,a,label\n1,2,u\n", "{0} has several columns of the name 'a'; rename them."),
    "unnamed": (
        ",a,label\n0,1,u\n",
        "{0}: column 1 has no name in the header; give it one, or remove it if it only counts the rows.",
    ),
    "a text among numbers": (
        "a,notes,label\n" + "".join(f"{i},some words of row{i},u{i % 2}\n" for i in range(20)),
        "{0}: a hold numbers and notes text. Say which are meant: --columns notes for the texts alone, or --kind "
        "tabular for all columns as features.",
    ),
    "nothing but names": (
        "id,label\n7,u\n8,v\n",
        "{0} holds no features: id: a value of its own in nearly every row. Name those that are meant with --columns.",
    ),
    "two texts": (
        "head,tail,label\nx,y,u\nz,w,v\n",
        "{0}: the columns head, tail could all hold the texts. Say which with --columns.",
    ),
    "ragged": (
        "text,label\nx,u\ny,v,w\n",
        "{0} cannot be read: CSV parse error: Row #3: Expected 2 columns, got 3: y,v,w. (Row 1 is the header.)",
    ),
    "numeric triplets": (
        "anchor,positive,negative\n1,2,3\n",
        "{0}: triplets and pairs are of texts or of paths to images, but column 'anchor' holds numbers. "
        "Give rows of features with a label instead (--form labels).",
    ),
    "only labels": ("label\nu\nv\n", "{0} holds nothing but the labels in 'label'."),
}


@pytest.mark.parametrize("case", MESSAGES)
def test_tables_that_cannot_be_used(tmp_path, case):
    text, expected = MESSAGES[case]
    path = table(tmp_path / "t.csv", text)
    options = {"missing": "error"} if case in ("nan", "missing") else {}
    assert message(path, **options) == expected.format(path)


def test_options_that_do_not_fit_the_table(tmp_path):
    path = table(tmp_path / "t.csv", "length,width,kind\n1,2,u\n3,4,v\n")
    assert message(path, label="kinds") == (
        f"{path} has no column 'kinds' (--label); its columns are length, width, kind. Did you mean 'kind'?"
    )
    assert message(path, label="kind", columns=["with"]) == (
        f"{path} has no column 'with' (--columns); its columns are length, width, kind. Did you mean 'width'?"
    )
    assert message(path, kind="tabular", columns=["kind"], label="width", categories=[], dates=[], texts=[]) == (
        f"{path}, row 1, column 'kind': 'u' is not a number (it is a column of numbers). Correct it, leave the column "
        "out with --columns, or take its words as categories with --categories kind."
    )
    assert "no column 'sizes' (--categories)" in message(path, categories=["sizes"])
    assert message(path, missing="imput", error=InputError).endswith("Did you mean 'impute'?")
    assert message(path, form="triplets") == (
        f"{path}: no columns of triplets found; expected are anchor, positive, negative. Its columns are "
        f"length, width, kind; say which with --columns."
    )
    assert message(path, form="pairs", columns=["kind"], error=InputError) == (
        "--columns names 1 columns; --form pairs needs 2."
    )
    assert message(path, kind="picture", error=InputError).startswith("--kind is 'picture'; allowed are 'image'")
    assert message(path, form="triplet", error=InputError).endswith("Did you mean 'triplets'?")
    pairs = table(tmp_path / "p.csv", "left,right\nx,y\n")
    assert "no column marks the pairs as similar or not" in message(pairs, form="marked-pairs")


def test_bytes_that_are_not_utf8(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes("text,label\nx,u\nGrüße,v\n".encode("latin-1"))
    assert message(path) == f"{path}:3: not UTF-8 (byte 0xfc); save the file as UTF-8."
    path.write_bytes("text,label\nx,u\nGrüße,v\n".encode("utf-8-sig"))
    assert read(path).items == ["x", "Grüße"]


def test_semicolons_quotes_and_line_breaks(tmp_path):
    assert read(table(tmp_path / "t.csv", "a;label\n1;u\n2;v\n")).columns == ("a",)
    assert read(table(tmp_path / "q.csv", 'text,label\r\n"x, ""y""\nz",u\r\nw,v\r\n')).items == [
        'x, "y"\nz',
        "w",
    ]


def test_json_lines_that_cannot_be_used(tmp_path):
    path = table(tmp_path / "t.jsonl", '{"text": "x", "label": 1}\n\n{"text": "y" "label": 2}\n')
    assert message(path) == f"{path}:3: not valid JSON (Expecting ',' delimiter, column 14)."
    table(path, '{"text": "x", "label": 1}\n[1, 2]\n')
    assert message(path) == f'{path}:2: expected an object such as {{"text": …, "label": …}}, found [1, 2].'
    table(path, '{"text": "x", "label": 1}\n{"text": ["y"], "label": 2}\n')
    assert message(path) == f"{path}:2: 'text' holds a list; allowed are text and numbers."
    table(path, '{"text": "x", "label": 1}\n\n{"label": 2}\n')
    assert message(path) == f"{path}, line 3, column 'text': the cell is empty. Fill it in or remove the row."
    assert message(table(path, "\n")) == f"{path} holds no rows."


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"text": "x", "label": 1}\n{"text": "y", "label": 2}')
    assert read(path).items == ["x", "y"]
    (tmp_path / "t.txt").write_bytes(b"\xef\xbb\xbffirst\nsecond")
    assert read(tmp_path / "t.txt", labelled=False).items == ["first", "second"]


def test_a_file_that_is_not_parquet(tmp_path):
    path = table(tmp_path / "t.parquet", "text,label\n")
    assert message(path).startswith(f"{path} cannot be read as Parquet: ")


def test_parquet_dictionaries_and_integers(tmp_path):
    path = tmp_path / "t.parquet"
    columns = {
        "text": pa.array(["x", "y", "x"]).dictionary_encode(),
        "label": pa.array([3, 1, 3], pa.int8()),
    }
    pa.parquet.write_table(pa.table(columns), path)
    records = read(path)
    assert (records.items, records.classes) == (["x", "y", "x"], ("1", "3"))


# Python objects


class Pairs(Dataset):
    def __init__(self, given, shape=(3,), **attributes):
        self.given, self.shape, self.reads = given, shape, 0
        for name, value in attributes.items():
            setattr(self, name, value)

    def __len__(self):
        return len(self.given)

    def __getitem__(self, place):
        self.reads += 1
        return torch.full(self.shape, float(place)), self.given[place]


def test_records_are_given_back(faces):
    records = read(faces)
    assert read(records) is records


def test_lists_and_arrays():
    records = read((["a cat", "a dog", "a car"], ["animal", "animal", "thing"]))
    assert (records.kind, records.classes, records.labels.tolist()) == (
        "text",
        ("animal", "thing"),
        [0, 0, 1],
    )
    array = np.arange(6.0).reshape(3, 2)
    records = read((array, np.array([2, 2, 10])))
    assert (records.columns, records.classes) == (("feature 1", "feature 2"), ("2", "10"))
    assert read(array, labelled=False).names == ["row 1", "row 2", "row 3"]
    pictures = [Image.new("L", (4, 4)), np.zeros((5, 5), np.uint8)]
    assert read(pictures, labelled=False).kind == "image"
    assert read((torch.ones(2, 3), torch.tensor([0, 1]))).items.tolist() == [[1, 1, 1]] * 2


def test_lists_of_paths(tmp_path):
    paths = [picture(tmp_path / "a.png"), tmp_path / "b.png"]
    records = read(paths, labelled=False)
    assert (records.items, len(records.skipped)) == ([str(paths[0])], 1)
    assert "none of the 1 image was found" in message(paths[1:], labelled=False)


def test_objects_that_cannot_be_used():
    assert message(["a", "b"]) == "The items have no labels: give a tuple (items, labels)."
    assert message((["a"], [1, 2])) == "There are 1 items and 2 labels; each item needs one label."
    assert message((["a", "b"], [1, 1])) == "There is a single class, '1'; at least two are needed to tell apart."
    assert message((["a", "b"], [1, None])) == "Label 1 is None; allowed are numbers and strings."
    assert message((["a", " "], [1, 2])) == "Text 1 of the list is empty; remove it."
    assert message([], labelled=False) == "There are no items."
    assert message(np.zeros(3), labelled=False, error=InputError).startswith("An array of shape (3,) was given")
    assert "the array, row 2, column 'feature 1': the value is missing" in message(
        np.array([[1.0], [np.nan]]), labelled=False
    )
    assert message([1, 2], labelled=False, error=InputError).startswith("An item is a int; allowed are")
    assert message(7, error=InputError).startswith("Data cannot be a int; allowed are a path")


def test_a_dataset_gives_tensors():
    data = Pairs(["u", "v", "u"])
    records = read(data)
    assert (records.kind, records.form, records.labels.tolist()) == ("tensor", "labels", [0, 1, 0])
    assert records.items[2].tolist() == [2, 2, 2]
    assert records.take([2, 0]).items[0].tolist() == [2, 2, 2]
    assert records.take([2, 0]).classes == ("u",)


@pytest.mark.parametrize("name", ["targets", "labels"])
def test_a_dataset_says_its_labels(name):
    data = Pairs([5, 6, 5], **{name: torch.tensor([5, 6, 5])})
    assert read(data).labels.tolist() == [0, 1, 0]
    assert data.reads <= 3  # the first item alone was looked at
    other = Pairs([5, 6, 5], **{name: [1]})
    assert read(other).labels.tolist() == [0, 1, 0]


def test_datasets_that_cannot_be_used():
    class Stream(IterableDataset):
        def __iter__(self):
            return iter([])

    assert message(Stream()).startswith("Stream is an iterable dataset, which cannot be dealt by class.")
    assert message(Pairs([])) == "The dataset Pairs is empty."


# What records do


def test_taking_and_leaving_out():
    records = read((np.arange(10.0).reshape(5, 2), ["c", "a", "b", "a", "c"]))
    taken = records.take([4, 1, 0])
    assert (taken.classes, taken.labels.tolist(), taken.names) == (
        ("a", "c"),
        [1, 0, 1],
        ["row 5", "row 2", "row 1"],
    )
    assert taken.items[:, 0].tolist() == [8, 2, 0]
    left = records.without([(2, "broken"), (4, "lost")])
    assert (left.classes, left.labels.tolist()) == (("a", "c"), [1, 0, 0])
    assert [(one.name, one.reason) for one in left.skipped] == [("row 3", "broken"), ("row 5", "lost")]
    assert records.without([]) is records
    with pytest.raises(DataError, match=r"nothing is left of 5 rows in 3 classes. row 1: x"):
        records.without([(i, "x") for i in range(5)])


def test_leaving_out_an_item_leaves_out_its_triplets(tmp_path):
    records = read(table(tmp_path / "t.csv", "anchor,positive,negative\na,b,c\nd,e,f\nd,f,a\n"))
    left = records.without([(1, "broken")])
    assert (left.items, left.tuples.tolist()) == (["a", "d", "e", "f"], [[1, 2, 3], [1, 3, 0]])
    rows = records.take_tuples([1])
    assert (rows.items, rows.tuples.tolist()) == (["d", "e", "f"], [[0, 1, 2]])
    with pytest.raises(DataError, match=r"take_tuples"):
        records.take([0])


def test_fingerprints_are_of_the_content(tmp_path):
    one, same, other = (picture(tmp_path / f"{i}.png", value) for i, value in enumerate([3, 3, 4]))
    prints = read([one, same, other], labelled=False).fingerprints()
    assert prints.dtype == np.int64
    assert prints[0] == prints[1] != prints[2]
    texts = read(["x", "y", "x"], labelled=False).fingerprints()
    assert texts[0] == texts[2] != texts[1]
    rows = read(np.array([[1, 2], [2, 1], [1, 2]]), labelled=False).fingerprints()
    assert rows[0] == rows[2] != rows[1]
