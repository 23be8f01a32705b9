"""The layouts of the usual data sets, on look-alikes of a few pixels that are made here."""

import csv
import shutil
from typing import get_args

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

import tercet
from conftest import QUICK, write_texts
from tercet.data.layouts import LAYOUTS, find_layout, parts, read_part
from tercet.data.readers import read
from tercet.data.wishes import LayoutName
from tercet.errors import DataError, InputError, TercetWarning
from tercet.evaluation import evaluate_embeddings


def picture(path, value=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (4, 4), value % 256).save(path)


def text(path, *lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def cub200(home):
    """Classes 1, 2, 99 to 102, two images each."""
    rows = [(code, f"{code:03d}.Bird_{code}/Bird_{k}.jpg") for code in (1, 2, 99, 100, 101, 102) for k in (1, 2)]
    for number, (_, path) in enumerate(rows, start=1):
        picture(home / "images" / path, number)
    text(home / "images.txt", *(f"{number} {path}" for number, (_, path) in enumerate(rows, start=1)))
    text(home / "image_class_labels.txt", *(f"{number} {code}" for number, (code, _) in enumerate(rows, start=1)))
    text(home / "train_test_split.txt", *(f"{number} {number % 2}" for number in range(1, len(rows) + 1)))


CARS = (1, 98, 98, 99, 196)


def cars196(home):
    for number in range(1, len(CARS) + 1):
        picture(home / f"car_ims/{number:06d}.jpg", number)
    annotations = np.array(
        [(f"car_ims/{number:06d}.jpg", 1, code, number % 2) for number, code in enumerate(CARS, start=1)],
        dtype=[("relative_im_path", "O"), ("bbox_x1", "O"), ("class", "O"), ("test", "O")],
    )
    savemat(home / "cars_annos.mat", {"annotations": annotations})


def cars_devkit(home):
    for folder, name, codes in (("cars_train", "cars_train_annos", (1, 99)),
                                ("cars_test", "cars_test_annos_withlabels", (2, 98, 196))):  # fmt: skip
        rows = [(f"{number:05d}.jpg", 1, code) for number, code in enumerate(codes, start=1)]
        for number, (path, *_) in enumerate(rows):
            picture(home / folder / path, number)
        (home / "devkit").mkdir(exist_ok=True)
        kinds = [("fname", "O"), ("bbox_x1", "O"), ("class", "O")]
        savemat(home / f"devkit/{name}.mat", {"annotations": np.array(rows, dtype=kinds)})


def sop(home):
    for name, codes in (("Ebay_train.txt", (1, 2)), ("Ebay_test.txt", (11319, 11320, 11321))):
        paths = [(code, f"bicycle_final/{code}_{k}.JPG") for code in codes for k in (0, 1)]
        for number, (_, path) in enumerate(paths):
            picture(home / path, number)
        rows = [f"{number} {code} 1 {path}" for number, (code, path) in enumerate(paths, start=1)]
        text(home / name, "image_id class_id super_class_id path", *rows)


def inshop(home):
    rows = []
    for item, statuses in (("id_1", ("train", "train")), ("id_2", ("query", "gallery", "gallery"))):
        for k, status in enumerate(statuses):
            path = f"img/WOMEN/Dresses/{item}/0{k}_front.jpg"
            picture(home / "Img" / path, k)
            rows.append(f"{path} {item} {status}")
    heading = "image_name item_id evaluation_status"
    text(home / "Eval/list_eval_partition.txt", str(len(rows)), heading, *rows)


def market1501(home):
    names = {
        "bounding_box_train": ("0002_c1s1_000451_03", "0002_c2s1_000301_01", "0007_c3s1_000001_01"),
        "query": ("0001_c1s1_001051_00", "0003_c2s3_000002_00"),
        "bounding_box_test": ("-1_c1s1_000401_03", "0000_c1s1_000151_01", "0000_c4s1_000152_01", "0001_c1s1_1_01",
                              "0001_c5s1_2_02"),
    }  # fmt: skip
    for folder, found in names.items():
        for k, name in enumerate(found):
            picture(home / folder / f"{name}.jpg", k)
        (home / folder / "Thumbs.db").write_text("x")


def lfw(home):
    for k, name in enumerate(("Ann_Bo", "Cy_Dee", "Eve_Fo", "Gus_Hy")):
        for number in (1, 2, 3):
            picture(home / f"lfw/{name}/{name}_{number:04d}.jpg", 3 * k + number)
    same, other = "Ann_Bo\t1\t2", "Ann_Bo\t1\tCy_Dee\t2"
    more, rest = "Cy_Dee\t1\t3", "Eve_Fo\t3\tGus_Hy\t1"
    text(home / "pairs.txt", "2\t2", same, more, other, rest, more, same, rest, other)
    text(home / "pairsDevTrain.txt", "2", same, more, other, rest)
    text(home / "pairsDevTest.txt", "1", same, rest)


def omniglot(home):
    for folder, alphabets in (("images_background", ("Greek", "Latin")), ("images_evaluation", ("Tengwar",))):
        for a, alphabet in enumerate(alphabets):
            for character in (1, 2):
                for drawer in (1, 2, 20):
                    name = f"{100 * a + character:04d}_{drawer:02d}.png"
                    picture(home / folder / alphabet / f"character{character:02d}" / name, drawer)


STS = ("main-captions\tMSRvid\t2012test\t0001\t5.000\tA plane is taking off.\tAn air plane is taking off.",
       "main-captions\tMSRvid\t2012test\t0004\t3.8\tA \"man\" is playing.\tA man plays.\tlicence",
       "main-news\theadlines\t2013\t0005\t4\tA plane is taking off.\tA cat sleeps.")  # fmt: skip


def stsb(home):
    for name in ("sts-train.csv", "sts-dev.csv", "sts-test.csv"):
        text(home / name, *STS)


SECTIONS = [["He was born in Rome.", 'She said "no", and left.', "It rains, often."], ["a b", "c d", "e f"],
            ["a b", "c d", "a b"]]  # fmt: skip


def wikipedia_sections(home):
    home.mkdir(parents=True, exist_ok=True)
    for name in ("train.csv", "validation.csv", "test.csv"):
        with (home / name).open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([["Sentence1", "Sentence2", "Sentence3"], *SECTIONS])


MAKERS = {
    "cub200": cub200, "cars196": cars196, "sop": sop, "inshop": inshop, "market1501": market1501, "lfw": lfw,
    "omniglot": omniglot, "stsb": stsb, "wikipedia-sections": wikipedia_sections,
}  # fmt: skip


@pytest.fixture(scope="module")
def homes(tmp_path_factory):
    """Every data set, which tests must not change; copy it if they do."""
    base = tmp_path_factory.mktemp("layouts")
    for name, make in {**MAKERS, "devkit": cars_devkit}.items():
        (base / name).mkdir()
        make(base / name)
    return base


def taken(part):
    """By class, the names of its images."""
    records = part.records
    of = {name: [] for name in records.classes}
    for name, code in zip(records.names, records.labels, strict=True):
        of[records.classes[code]].append(name)
    return of


def test_the_table_has_every_name():
    assert tuple(LAYOUTS) == get_args(LayoutName)
    assert list(MAKERS) == list(LAYOUTS)


@pytest.mark.parametrize("name", MAKERS)
def test_each_is_told_from_all_others(homes, name):
    assert find_layout(homes / name) == name
    assert find_layout(homes / name / "no-such") is None
    assert [other for other, layout in LAYOUTS.items() if layout.is_at(homes / name)] == [name]


@pytest.mark.parametrize("name", MAKERS)
def test_each_gives_its_parts(homes, name):
    found = parts(name, homes / name)
    assert tuple(found) == LAYOUTS[name].parts
    for word, part in found.items():
        assert LAYOUTS[name].title.split()[-1] in part.records.description or word in part.records.description
        assert part.records.source == str(homes / name)
        assert part.groups is None or len(part.groups) == len(part.records)
        items = part.records.items
        assert all((homes / name / item).is_file() for item in items if part.records.kind == "image")


def test_other_folders_look_like_none(tmp_path):
    for name in ("train.csv", "validation.csv", "test.csv"):
        text(tmp_path / name, "path,label", "a.png,1")
    for name in ("anna/1.png", "ben/1.png"):
        picture(tmp_path / name)
    assert find_layout(tmp_path) is None
    assert read(tmp_path).classes == ("anna", "ben")


# Each by itself.


def test_cub(homes):
    found = parts("cub200", homes / "cub200")
    assert list(taken(found["train"])) == ["001.Bird_1", "002.Bird_2", "099.Bird_99", "100.Bird_100"]
    assert taken(found["test"]) == {
        "101.Bird_101": ["101.Bird_101/Bird_1.jpg", "101.Bird_101/Bird_2.jpg"],
        "102.Bird_102": ["102.Bird_102/Bird_1.jpg", "102.Bird_102/Bird_2.jpg"],
    }
    assert {len(names) for names in taken(found["split-train"]).values()} == {1}
    assert found["split-train"].records.names[0] == "001.Bird_1/Bird_1.jpg"
    assert found["split-test"].records.names[0] == "001.Bird_1/Bird_2.jpg"
    assert len(found["split-test"].records.classes) == 6


def test_cars(homes):
    found = parts("cars196", homes / "cars196")
    assert taken(found["train"]) == {
        "001": ["car_ims/000001.jpg"], "098": ["car_ims/000002.jpg", "car_ims/000003.jpg"],
    }  # fmt: skip
    assert taken(found["test"]) == {"099": ["car_ims/000004.jpg"], "196": ["car_ims/000005.jpg"]}
    assert find_layout(homes / "devkit") == "cars196"
    kit = parts("cars196", homes / "devkit")
    assert taken(kit["train"]) == {"001": ["cars_train/00001.jpg"], "002": ["cars_test/00001.jpg"],
                                   "098": ["cars_test/00002.jpg"]}  # fmt: skip
    assert taken(kit["test"]) == {"099": ["cars_train/00002.jpg"], "196": ["cars_test/00003.jpg"]}


def test_products(homes):
    found = parts("sop", homes / "sop")
    assert taken(found["train"]) == {
        code: [f"bicycle_final/{code}_0.JPG", f"bicycle_final/{code}_1.JPG"] for code in ("1", "2")
    }
    assert found["test"].records.classes == ("11319", "11320", "11321")


def test_inshop(homes):
    found = parts("inshop", homes / "inshop")
    assert {name: list(taken(part)) for name, part in found.items()} == {
        "train": ["id_1"], "query": ["id_2"], "gallery": ["id_2"],
    }  # fmt: skip
    assert found["gallery"].records.names == [f"img/WOMEN/Dresses/id_2/0{k}_front.jpg" for k in (1, 2)]


def test_market(homes):
    found = parts("market1501", homes / "market1501")
    assert taken(found["train"])["0002"] == [
        "bounding_box_train/0002_c1s1_000451_03.jpg", "bounding_box_train/0002_c2s1_000301_01.jpg",
    ]  # fmt: skip
    assert found["train"].groups == ("camera 1", "camera 2", "camera 3")
    gallery = found["gallery"]
    assert set(gallery.records.classes) == {"0000_c1s1_000151_01", "0000_c4s1_000152_01", "0001"}  # nobody twice
    assert gallery.groups == ("camera 1", "camera 4", "camera 1", "camera 5")
    assert [one.name for one in gallery.records.skipped] == ["bounding_box_test/-1_c1s1_000401_03.jpg"]
    assert found["query"].records.classes == ("0001", "0003")


def test_lfw(homes):
    found = parts("lfw", homes / "lfw")
    test = found["test"]
    assert test.folds.tolist() == [1] * 4 + [2] * 4
    assert test.records.similar.tolist() == [True, True, False, False] * 2
    pairs = [tuple(test.records.names[i] for i in row) for row in test.records.tuples]
    assert pairs[:4] == [
        ("Ann_Bo/Ann_Bo_0001.jpg", "Ann_Bo/Ann_Bo_0002.jpg"), ("Cy_Dee/Cy_Dee_0001.jpg", "Cy_Dee/Cy_Dee_0003.jpg"),
        ("Ann_Bo/Ann_Bo_0001.jpg", "Cy_Dee/Cy_Dee_0002.jpg"), ("Eve_Fo/Eve_Fo_0003.jpg", "Gus_Hy/Gus_Hy_0001.jpg"),
    ]  # fmt: skip
    assert pairs[4:] == [pairs[1], pairs[0], pairs[3], pairs[2]]
    assert found["train"].folds is None
    assert found["train"].records.similar.tolist() == [True, True, False, False]
    assert found["validation"].records.similar.tolist() == [True, False]
    assert {name: len(names) for name, names in taken(found["people"]).items()} == {
        "Ann_Bo": 3, "Cy_Dee": 3, "Eve_Fo": 3, "Gus_Hy": 3,
    }  # fmt: skip


def test_lfw_leaves_out_pairs_without_a_photograph(homes, tmp_path):
    home = shutil.copytree(homes / "lfw", tmp_path / "lfw")
    (home / "lfw/Ann_Bo/Ann_Bo_0002.jpg").unlink()
    test = read_part("lfw", home, "test")
    assert test.folds.tolist() == [1, 1, 1, 2, 2, 2]
    assert [(one.name, one.reason) for one in test.records.skipped] == [
        ("line 2", "no such file: Ann_Bo/Ann_Bo_0002.jpg"), ("line 7", "no such file: Ann_Bo/Ann_Bo_0002.jpg"),
    ]  # fmt: skip


def test_omniglot(homes):
    found = parts("omniglot", homes / "omniglot")
    assert list(taken(found["train"])) == [f"{a}/character0{c}" for a in ("Greek", "Latin") for c in (1, 2)]
    assert list(taken(found["test"])) == ["Tengwar/character01", "Tengwar/character02"]
    assert found["test"].groups == ("drawer 01", "drawer 02", "drawer 20") * 2


def test_stsb(homes, tmp_path):
    found = parts("stsb", homes / "stsb")
    train = found["train"]
    assert train.scores.tolist() == [5.0, 3.8, 4.0]
    assert train.records.similar.tolist() == [True, False, True]
    assert train.records.items == ["A plane is taking off.", "An air plane is taking off.", 'A "man" is playing.',
                                   "A man plays.", "A cat sleeps."]  # fmt: skip
    assert train.records.tuples.tolist() == [[0, 1], [2, 3], [0, 4]]
    text(tmp_path / "sts-train.tsv", "index\tscore\tsentence1\tsentence2", '0\t2.5\t"a\tb c')
    text(tmp_path / "sts-test.csv", "split,score,sentence1,sentence2", 'test,2.5,"a, b",c')
    assert read_part("stsb", tmp_path, "train").records.items == ['"a', "b c"]
    assert read_part("stsb", tmp_path, "test").records.items == ["a, b", "c"]


def test_wikipedia(homes):
    found = parts("wikipedia-sections", homes / "wikipedia-sections")["train"]
    assert [found.records.items[i] for i in found.records.tuples[0]] == SECTIONS[0]
    assert found.records.tuples.shape == (2, 3)
    assert [(one.name, one.reason) for one in found.records.skipped] == [
        ("line 4", "the negative is the anchor or the positive itself")
    ]


# What is missing, and what is wrong.

BIRDS, MODELS = "the folder that CUB_200_2011.tgz unpacks to", LAYOUTS["cars196"].home


@pytest.mark.parametrize(
    ("name", "part", "gone", "message"),
    [
        ("cub200", "train", "images.txt", f"images.txt is missing; expected in {BIRDS}."),
        ("cub200", "train", "image_class_labels.txt", f"image_class_labels.txt is missing; expected in {BIRDS}."),
        ("cub200", "test", "images", f"images is missing; expected in {BIRDS}."),
        ("cub200", "split-test", "train_test_split.txt", f"train_test_split.txt is missing; expected in {BIRDS}."),
        ("cars196", "train", "cars_annos.mat", "cars_annos.mat or devkit/cars_train_annos.mat or devkit/"
         f"cars_test_annos_withlabels.mat is missing; expected in {MODELS}."),
        ("cars196", "train", "car_ims", f"car_ims is missing; expected in {MODELS}."),
        ("devkit", "test", "devkit/cars_test_annos_withlabels.mat", "devkit/cars_test_annos_withlabels.mat or "
         f"cars_test_annos_withlabels.mat is missing; expected in {MODELS}."),
        ("devkit", "test", "cars_test", f"cars_test is missing; expected in {MODELS}."),
        ("sop", "train", "Ebay_train.txt", "Ebay_train.txt is missing; expected in the folder that "
         "Stanford_Online_Products.zip unpacks to."),
        ("sop", "test", "Ebay_test.txt", "Ebay_test.txt is missing; expected in"),
        ("inshop", "query", "Eval", "list_eval_partition.txt or Eval/list_eval_partition.txt is missing; expected in"),
        ("inshop", "query", "Img", "img or Img/img is missing; expected in the folder of the In-shop benchmark"),
        ("market1501", "train", "bounding_box_train", "bounding_box_train is missing; expected in the folder that "
         "Market-1501-v15.09.15.zip unpacks to."),
        ("market1501", "query", "query", "query is missing; expected in"),
        ("market1501", "gallery", "bounding_box_test", "bounding_box_test is missing; expected in"),
        ("lfw", "test", "pairs.txt", "pairs.txt is missing; expected in a folder that holds lfw/"),
        ("lfw", "train", "pairsDevTrain.txt", "pairsDevTrain.txt is missing; expected in"),
        ("lfw", "validation", "pairsDevTest.txt", "pairsDevTest.txt is missing; expected in"),
        ("lfw", "people", "lfw", "lfw or lfw_funneled or lfw-deepfunneled is missing; expected in"),
        ("omniglot", "train", "images_background", "images_background is missing; expected in the folder that"),
        ("omniglot", "test", "images_evaluation", "images_evaluation is missing; expected in"),
        ("stsb", "train", "sts-train.csv", "sts-train.csv or sts-train.tsv is missing; expected in the folder that"),
        ("stsb", "validation", "sts-dev.csv", "sts-dev.csv or sts-dev.tsv is missing; expected in"),
        ("stsb", "test", "sts-test.csv", "sts-test.csv or sts-test.tsv is missing; expected in"),
        ("wikipedia-sections", "train", "train.csv", "train.csv is missing; expected in the folder that wikipedia-"),
        ("wikipedia-sections", "validation", "validation.csv", "validation.csv is missing; expected in"),
        ("wikipedia-sections", "test", "test.csv", "test.csv is missing; expected in"),
    ],
)  # fmt: skip
def test_what_is_missing_is_named(homes, tmp_path, name, part, gone, message):
    home = shutil.copytree(homes / name, tmp_path / "home")
    if (home / gone).is_dir():
        shutil.rmtree(home / gone)
    else:
        (home / gone).unlink()
    with pytest.raises(DataError) as caught:
        read_part("cars196" if name == "devkit" else name, home, part)
    assert str(caught.value).startswith(f"{home}/: {message}")


@pytest.mark.parametrize(
    ("name", "part", "file", "line", "given", "message"),
    [
        ("cub200", "train", "images.txt", 3, "3", "'3' is not the number of an image and its path."),
        ("cub200", "train", "images.txt", 2, "x y", "'x y' is not the number of an image and its path."),
        ("cub200", "test", "image_class_labels.txt", 4, "4 bird", "'bird' is not the number of a class."),
        ("cub200", "split-test", "train_test_split.txt", 1, "1", "'1' is not the number of an image and 1 or 0."),
        ("sop", "train", "Ebay_train.txt", 3, "2 x 1 a.JPG", "'2 x 1 a.JPG' is not image_id, class_id, super_class_id"),
        ("sop", "test", "Ebay_test.txt", 2, "1 2 3", "'1 2 3' is not image_id, class_id, super_class_id, path."),
        ("inshop", "train", "Eval/list_eval_partition.txt", 4, "a id val", "'a id val' is not a path, an item and one"),
        ("inshop", "train", "Eval/list_eval_partition.txt", 1, "9", "the file says that it lists 9 images, and it"),
        ("lfw", "test", "pairs.txt", 1, "ten 2", "'ten 2' is not the number of folds, and of pairs of each kind"),
        ("lfw", "test", "pairs.txt", 1, "2\t3", "2 × 3 pairs of each kind are 12 lines, and there are 8; the file was"),
        ("lfw", "test", "pairs.txt", 3, "Ann_Bo 1 Cy_Dee 2", "'Ann_Bo 1 Cy_Dee 2' is not a name and two numbers"),
        ("lfw", "train", "pairsDevTrain.txt", 4, "Ann_Bo 1 2", "'Ann_Bo 1 2' is not a name, a number, another name"),
        ("stsb", "train", "sts-train.csv", 2, "a\tb", "'a b' is not a score and two sentences, with tabs between."),
        ("stsb", "test", "sts-test.csv", 3, "a\tb\tc\td\t5.1\tx\ty", "'5.1 x y' is not a score from 0 to 5 and two"),
        ("stsb", "test", "sts-test.csv", 1, "a\tb\tc\td\tnan\tx\ty", "'nan x y' is not a score from 0 to 5 and two"),
        ("wikipedia-sections", "train", "train.csv", 1, "a,b,c", "'a,b,c' is not the heading Sentence1,Sentence2,"),
        ("wikipedia-sections", "test", "test.csv", 3, "a,,c", "'a,,c' is not three sentences."),
    ],
)  # fmt: skip
def test_lines_that_are_wrong_are_named(homes, tmp_path, name, part, file, line, given, message):
    home = shutil.copytree(homes / name, tmp_path / "home")
    lines = (home / file).read_text(encoding="utf-8").splitlines()
    lines[line - 1] = given
    text(home / file, *lines)
    with pytest.raises(DataError) as caught:
        read_part(name, home, part)
    assert str(caught.value).startswith(f"{home}/{file}:{line}: {message}")


def test_other_things_that_are_wrong(homes, tmp_path):
    home = shutil.copytree(homes / "cub200", tmp_path / "cub")
    lines = (home / "image_class_labels.txt").read_text().splitlines()
    text(home / "image_class_labels.txt", *lines[:-1])
    with pytest.raises(DataError, match=r"image_class_labels.txt says nothing of image 12 \(102.Bird_102/Bird_2.jpg, "
                       "images.txt:12"):  # fmt: skip
        read_part("cub200", home, "train")
    (home / "images.txt").write_bytes(b"1 a/b.jpg\n2 \xff\n")
    with pytest.raises(DataError, match=r"images.txt:2: not UTF-8"):
        read_part("cub200", home, "train")
    home = shutil.copytree(homes / "market1501", tmp_path / "market")
    picture(home / "query/someone.jpg")
    with pytest.raises(DataError, match=r"query/someone.jpg: the name does not begin with a person and a camera"):
        read_part("market1501", home, "query")
    shutil.rmtree(home / "bounding_box_train")
    (home / "bounding_box_train").mkdir()
    with pytest.raises(DataError, match="Market-1501, train has no images"):
        read_part("market1501", home, "train")
    home = shutil.copytree(homes / "omniglot", tmp_path / "omniglot")
    picture(home / "images_evaluation/Tengwar/character01/x.png")
    with pytest.raises(DataError, match=r"character01/x.png: the name is not that of a character and of who drew it"):
        read_part("omniglot", home, "test")
    home = shutil.copytree(homes / "sop", tmp_path / "sop")
    (home / "bicycle_final/1_0.JPG").unlink()
    assert [one.name for one in read_part("sop", home, "train").records.skipped] == ["bicycle_final/1_0.JPG"]
    shutil.rmtree(home / "bicycle_final")
    with pytest.raises(DataError, match=r"none of the 4 images of Stanford Online Products, train is there. bicycle_f"):
        read_part("sop", home, "train")


def test_files_of_matlab_that_are_wrong(homes, tmp_path):
    home = shutil.copytree(homes / "cars196", tmp_path / "cars")
    listing = home / "cars_annos.mat"
    savemat(listing, {"other": 1})
    with pytest.raises(DataError, match=r"cars_annos.mat holds no 'annotations'; download it again"):
        read_part("cars196", home, "train")
    savemat(listing, {"annotations": np.array([("a.jpg", 1)], dtype=[("relative_im_path", "O"), ("test", "O")])})
    with pytest.raises(DataError, match="its annotations have no field 'class'; the fields are relative_im_path, test"):
        read_part("cars196", home, "train")
    rows = np.array([("a.jpg", 1), ("b.jpg", "x")], dtype=[("relative_im_path", "O"), ("class", "O")])
    savemat(listing, {"annotations": rows})
    with pytest.raises(DataError, match=r"annotation 2 \(b.jpg\) has the class '?x'?, which is no number"):
        read_part("cars196", home, "train")
    listing.write_bytes(b"MATLAB 5.0 but cut short")
    with pytest.raises(DataError, match=r"cars_annos.mat cannot be read as a MATLAB file: "):
        read_part("cars196", home, "train")


# As a source of training, evaluation and benchmarks.


def test_sources_of_a_layout_are_read_by_part(homes):
    assert read(homes / "cub200").classes == ("001.Bird_1", "002.Bird_2", "099.Bird_99", "100.Bird_100")
    assert len(read(homes / "cub200", part="test")) == 4
    assert len(read(homes / "cub200", layout="cub200", usual_part="test").classes) == 2
    assert read(homes / "lfw", part="people").form == "labels"
    assert read(homes / "lfw").form == "marked-pairs"
    assert read(homes / "wikipedia-sections").form == "triplets"
    everything = read(homes / "cub200" / "images", labelled=False)
    assert len(everything) == 12
    unlabelled = read(homes / "cub200", labelled=False, layout="cub200")
    assert len(unlabelled) == 8
    assert read(homes / "cub200", form="items", layout="cub200").form == "items"


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("market1501", {"usual_part": "test"}, "Market-1501 has no part 'test', it has train, query, gallery; say "
         "which with --part."),
        ("cub200", {"part": "tset"}, "CUB-200-2011 has no part 'tset', it has train, test, split-train, split-test"),
        ("cub200", {"layout": "cub"}, "layout is 'cub'; allowed are .* Did you mean 'cub200'"),
        ("cub200/images", {"part": "test"}, "part is 'test', which is for the folder of a data set; .* is none"),
        ("cub200", {"label": "a"}, "--label can only be given for a table"),
        ("cub200", {"kind": "text"}, "--kind is 'text', and .* holds image; leave it out"),
        ("stsb", {"form": "pairs"}, "--form is 'pairs', and .* holds marked-pairs; leave it out"),
    ],
)  # fmt: skip
def test_options_that_do_not_fit_are_refused(homes, name, options, message):
    with pytest.raises(InputError, match=message):
        read(homes / name, **options)


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(DataError, match="nowhere does not exist; CUB-200-2011 is read from the folder that CUB_200"):
        read(tmp_path / "nowhere", layout="cub200")


def test_training_and_evaluation_take_the_parts_that_are_for_them(homes, command, tmp_path):
    out = tmp_path / "run"
    words = ["--steps", "2", "--classes-per-batch", "2", "--samples-per-class", "2", "--evaluate-every", "2",
             "--holdout-by", "class"]  # fmt: skip
    done = command("train", homes / "omniglot", "--out", out, "--image.size", "8", "8", *words)
    assert done.code == 0, done.err
    assert "training data: 12 images in 4 classes (Omniglot, train)" in done.err
    assert "Held out for validation: 2 classes of 4" in done.err
    done = command("evaluate", out, "--data", homes / "omniglot", "--no-baseline", "--json")
    assert done.code == 0, done.err
    assert '"test.n_items": 6' in done.out
    done = command("evaluate", out, "--data", homes / "omniglot", "--part", "train", "--no-baseline", "--json")
    assert '"test.n_items": 12' in done.out
    done = command("embed", out, homes / "omniglot", "--layout", "omniglot", "--part", "test", "--out",
                   tmp_path / "test.parquet")  # fmt: skip
    assert done.code == 0, done.err
    assert "6" in done.out


@pytest.fixture(scope="module")
def run(image_run, tmp_path_factory):
    return tercet.load(shutil.copytree(image_run, tmp_path_factory.mktemp("run") / "images"))


@pytest.fixture(scope="module")
def text_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    return tercet.train(str(write_texts(folder / "texts.csv", range(7))), out=folder / "run", progress=False, **QUICK)


def test_queries_of_market_are_searched_for_in_its_gallery(homes, run, command):
    home = homes / "market1501"
    done = command("evaluate", run.path, "--data", home, "--no-baseline")
    assert done.code == 0, done.err
    assert "evaluated as this data set usually is: queries are searched for in the gallery, without" in done.err
    usual = run.evaluate(home, baseline=False).metrics
    query, gallery = (read_part("market1501", home, part) for part in ("query", "gallery"))
    by_hand = evaluate_embeddings(
        run.embed(list(query.records.items)), query.records.label_names(), distance=run.distance,
        gallery=run.embed(list(gallery.records.items)), gallery_labels=gallery.records.label_names(),
        groups=query.groups, gallery_groups=gallery.groups, exclude="group-and-label",
    ).metrics  # fmt: skip
    assert {key: usual[key] for key in by_hand if key.startswith(("map", "cmc", "recall", "n_"))} == {
        key: value for key, value in by_hand.items() if key.startswith(("map", "cmc", "recall", "n_"))
    }
    assert usual["n_queries"] == 1  # person 3 is not in the gallery
    assert run.evaluate(home, baseline=False, part="train").metrics["n_items"] == 3
    alone = run.evaluate(home, baseline=False, ks=(1,), group_from=r"_c(\d)", exclude="group")
    assert (alone.metrics["n_items"], "n_gallery_items" in alone.metrics) == (2, False)


def test_pairs_of_lfw_are_judged_fold_by_fold(homes, run, tmp_path):
    assert "accuracy_folds" in run.evaluate(homes / "lfw", baseline=False).metrics
    home = shutil.copytree(homes / "lfw", tmp_path / "lfw")
    (home / "lfw" / "Eve_Fo" / "Eve_Fo_0003.jpg").write_bytes(b"no picture")
    with pytest.warns(TercetWarning, match="1 of 7 items"):
        assert run.evaluate(home, baseline=False).metrics["n_pairs"] == 6
    assert "accuracy_folds" not in run.evaluate(homes / "lfw", baseline=False, form="marked-pairs").metrics


def test_scores_of_sts_are_ranked(homes, text_run):
    assert -1 <= text_run.evaluate(homes / "stsb", baseline=False).metrics["spearman"] <= 1
    assert "auc" in text_run.evaluate(homes / "stsb", baseline=False, form="marked-pairs").metrics


def test_queries_of_in_shop_are_searched_for_in_its_gallery(homes, run):
    metrics = run.evaluate(homes / "inshop", baseline=False, ks=(1,)).metrics
    assert (metrics["n_queries"], metrics["n_gallery_items"]) == (1, 2)


def test_the_validation_part_of_a_data_set_validates(homes):
    from tercet.training.config import DataOptions
    from tercet.training.intake import read_data
    from tercet.training.reporter import Reporter
    from tercet.training.request import Request

    train, held = read_data(Request(str(homes / "lfw")), Reporter())
    assert (len(train.tuples), len(held.tuples)) == (4, 2)
    _, held = read_data(Request(str(homes / "lfw"), data=DataOptions(validation=str(homes / "lfw"))), Reporter())
    assert len(held.tuples) == 2
    people = DataOptions(part="people", holdout_by="class")
    train, held = read_data(Request(str(homes / "lfw"), data=people), Reporter())
    assert (train.form, len(train) + len(held)) == ("labels", 12)


def test_a_benchmark_takes_the_test_set_of_the_layout(homes):
    from tercet.training.benchmark.options import BenchmarkOptions
    from tercet.training.benchmark.plan import make_plan
    from tercet.training.config import DataOptions
    from tercet.training.request import Request

    options, tables = BenchmarkOptions(folds=2), {"a": {"loss": "supcon"}}
    plan = make_plan(Request(str(homes / "cub200")), options, tables)
    assert (len(plan.development), plan.test.classes) == (8, ("101.Bird_101", "102.Bird_102"))
    with pytest.raises(DataError, match="holds marked pairs, and a benchmark needs items with labels"):
        make_plan(Request(str(homes / "lfw")), options, tables)
    with pytest.raises(DataError, match="2 classes with two items are for training and validation; 2 folds need"):
        make_plan(Request(str(homes / "lfw"), data=DataOptions(part="people")), options, tables)
