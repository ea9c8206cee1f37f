import base64
import io
import json
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image

from artgan.data.inspection import Checkup, Facts
from artgan.data.report import write_report

VOID = {"meta", "img", "br"}
HOSTILE = "<script>alert(1)\"'&amp; 山水 \udcff\u202e.png"
CHROMIUM = (
    "chromium --headless --no-sandbox --disable-gpu --disable-quic --no-first-run "
    "--disable-background-networking --disable-component-update --disable-sync"
)


def usable(file: str, width: int = 300, height: int = 300, **others: Any) -> Facts:
    known = {"format": "PNG", "mode": "RGB", "color": (128, 128, 128), **others}
    return Facts(file, 1, 0, "", width=width, height=height, **known)


def unusable(file: str, reason: str) -> Facts:
    return Facts(file, 1, 0, "", reason)


def report(
    root: Path,
    facts: list[Facts],
    duplicates: list[list[str]] | None = None,
    others: dict[str, int] | None = None,
) -> tuple[str, dict[str, Any]]:
    """Writes a report and reads back both files."""
    page = write_report(Checkup(root, facts, duplicates or [], others or {}), root / ".artgan")
    counts = json.loads(page.with_suffix(".json").read_bytes())
    return page.read_text(encoding="utf-8"), counts


class Parsed(HTMLParser):
    """Follows the tags of a page, and keeps its text and the attributes of its images."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.names: set[str] = set()
        self.images: list[dict[str, str | None]] = []
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        if tag == "img":
            self.images.append(dict(attributes))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_json_file_counts_what_is_in_the_folder(tmp_path: Path) -> None:
    facts = [
        usable("root.png", 63, 200),
        usable("birds/a.png", 64, 64, frame=(4, 4, 60, 60)),
        usable("birds/b.jpg", 127, 127, format="JPEG", mode="CMYK"),
        usable("hills/deep/c.png", 2000, 500),
        usable("hills/d.png", 2001, 500, pages=3),
        unusable("e.png", "too small: 8×200 pixels"),
        unusable("hills/f.png", "too small: 9×9 pixels"),
        unusable("g.png", "damaged: no more"),
    ]
    groups = [["birds/a.png", "birds/b.jpg", "root.png"], ["hills/d.png", "hills/deep/c.png"]]
    _, counts = report(tmp_path, facts, groups, {".txt": 2, "linked folder": 3})

    assert counts.pop("date")
    assert counts == {
        "root": str(tmp_path),
        "pictures": 8,
        "usable": 5,
        "unusable": [
            {"file": "e.png", "reason": "too small: 8×200 pixels"},
            {"file": "hills/f.png", "reason": "too small: 9×9 pixels"},
            {"file": "g.png", "reason": "damaged: no more"},
        ],
        "reasons": {"too small": 2, "damaged": 1},
        "duplicates": groups,
        "superfluous": 3,
        "bordered": [{"file": "birds/a.png", "frame": [4, 4, 60, 60]}],
        "several_pages": [{"file": "hills/d.png", "pages": 3}],
        "classes": {"birds": 2, "hills": 2, "": 1},
        "formats": {"PNG": 4, "JPEG": 1},
        "modes": {"RGB": 4, "CMYK": 1},
        "others": {"linked folder": 3, ".txt": 2},
        "short_sides": {
            "below 64": 1,
            "64 to 127": 2,
            "128 to 255": 0,
            "256 to 511": 2,
            "512 to 1023": 0,
            "1024 and more": 0,
        },
        "small": 3,
        "shapes": {
            "taller than 1:4": 0,
            "1:4 to 1:2": 1,
            "1:2 to 4:5": 0,
            "nearly square": 2,
            "5:4 to 2:1": 0,
            "2:1 to 4:1": 1,
            "wider than 4:1": 1,
        },
        "tall": 1,
        "wide": 2,
    }


@pytest.mark.parametrize(("width", "height"), [(200, 100), (100, 200)])
def test_twice_as_long_is_not_yet_longer_than_that(tmp_path: Path, width: int, height: int) -> None:
    facts = [usable("a.png", width, height), usable("b.png", width, height)]
    _, counts = report(tmp_path, facts)
    assert counts["wide"] == counts["tall"] == 0
    assert counts["shapes"]["5:4 to 2:1"] + counts["shapes"]["1:2 to 4:5"] == 2


def test_an_empty_folder_has_a_report(tmp_path: Path) -> None:
    page, counts = report(tmp_path, [])
    assert "0 of 0 images" in page
    assert page.count("None.") == 10  # in place of every gallery, and of all counts but of sizes
    assert counts["pictures"] == 0


def test_of_many_files_the_page_shows_some_and_the_json_file_all(tmp_path: Path) -> None:
    """The files are missing, too, as if the folder had been moved in the meantime."""
    good = [usable(f"{index % 999}/{index}.png", frame=(9, 9, 99, 99)) for index in range(5000)]
    bad = [unusable(f"{index}.png", f"kind {index % 50}") for index in range(5000)]
    groups = [[facts.file for facts in good[index : index + 9]] for index in range(0, 4500, 9)]
    others = {f".{index}": 1 for index in range(5000)}
    page, counts = report(tmp_path, good + bad, groups, others)

    assert len(page) < 300_000
    assert "not shown" in page
    assert counts["unusable"] == [{"file": f.file, "reason": f.reason} for f in bad]
    assert counts["duplicates"] == groups
    assert counts["others"] == others
    # 60 of all, 18 borders; among squares none is the widest or the tallest
    # 8 of 50 reasons with 6 of 100 files each, 30 of 500 groups with 4 of 9 files each
    assert page.count("<figure>") == 60 + 18 + 8 * 6 + 30 * 4
    assert page.count("<em>kept</em>") == 30
    assert page.count("and 470 more groups") == 1
    assert page.count("and 5 more<") == 30
    assert page.count("and 42 more reasons") == 1
    assert page.count("and 94 more<") == 8


def test_every_tag_of_the_page_is_closed(tmp_path: Path) -> None:
    facts = [usable("a.png"), usable("b.png", 900, 90), unusable("c.png", "not an image")]
    page, _ = report(tmp_path, facts, [["a.png", "b.png"]])
    assert Parsed(page).open == []


@pytest.mark.parametrize("place", ["file", "folder", "reason", "ending", "root"])
def test_a_hostile_name_stays_text(tmp_path: Path, place: str) -> None:
    at = dict.fromkeys(["file", "folder", "reason", "ending", "root"], "plain") | {place: HOSTILE}
    file = f"{at['folder']}/{at['file']}"
    facts = [usable(file, 300, 100), usable("b.png"), unusable(f"{file}2", at["reason"])]
    page, counts = report(tmp_path / at["root"], facts, [[file, "b.png"]], {at["ending"]: 1})

    parsed = Parsed(page)
    assert "script" not in parsed.names
    assert parsed.open == []
    assert "<script>alert(1)\"'&amp; 山水 \\udcff\u202e.png" in parsed.text
    written = {
        "file": Path(counts["duplicates"][0][0]).name,
        "folder": list(counts["classes"]),
        "reason": counts["unusable"][0]["reason"],
        "ending": list(counts["others"]),
        "root": Path(counts["root"]).name,
    }
    assert HOSTILE in written[place]


def test_a_file_whose_name_is_not_text_is_shown(tmp_path: Path) -> None:
    name = os.fsdecode(b"\xff\xfe.png")
    Image.new("RGB", (40, 40), "red").save(tmp_path / name, "PNG")
    page, counts = report(tmp_path, [usable(name, 40, 60, frame=(9, 9, 30, 50))])
    assert "data:image/jpeg" in page
    assert os.fsencode(counts["bordered"][0]["file"]) == b"\xff\xfe.png"


def test_a_thumbnail_starts_no_interpreter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PostScript, under the name of a photo, would be run by Ghostscript."""
    started: list[object] = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *given, **_: started.append(given))
    (tmp_path / "photo.jpg").write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n"
    )
    report(tmp_path, [unusable("photo.jpg", "damaged")])
    assert not started


def test_a_thumbnail_shows_the_file_it_is_named_after(tmp_path: Path) -> None:
    colors = {"red.png": (220, 20, 20), "green.png": (20, 200, 20), "<blue>.png": (20, 20, 220)}
    for name, color in colors.items():
        Image.new("RGB", (80, 60), color).save(tmp_path / name)
    page, _ = report(tmp_path, [usable(name, 80, 60) for name in colors], [[*colors]])
    shown = thumbnails(page)
    assert len(shown) == 3 * len(colors)  # among all, among the widest, among the duplicates
    for name, image in shown:
        assert np.abs(np.asarray(image, int) - colors[name]).max() < 8


@pytest.mark.parametrize(
    ("size", "shrunk"), [((1200, 300), (320, 80)), ((4000, 40), (480, 5)), ((160, 160), (160, 160))]
)
def test_thumbnails_are_small_whatever_their_image(
    tmp_path: Path, size: tuple[int, int], shrunk: tuple[int, int]
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    page, _ = report(tmp_path, [usable("noise.png", *size)])
    assert {image.size for _, image in thumbnails(page)} == {shrunk}
    assert all(len(source) < 20_000 for source in re.findall(r"data:[^\"]*", page))


def thumbnails(page: str) -> list[tuple[str, Image.Image]]:
    """The thumbnails of a page with their names, in its order."""
    return [
        (image["alt"] or "", Image.open(io.BytesIO(base64.b64decode(jpeg))))
        for image in Parsed(page).images
        for jpeg in re.findall("image/jpeg;base64,(.*)", image["src"] or "")
    ]


def test_what_can_be_decoded_of_an_unusable_image_is_shown(tmp_path: Path) -> None:
    Image.new("RGB", (8, 200), "red").save(tmp_path / "thin.png")
    Image.effect_noise((99, 99), 50).save(tmp_path / "torn.jpg")
    content = (tmp_path / "torn.jpg").read_bytes()
    (tmp_path / "torn.jpg").write_bytes(content[: len(content) // 2])
    os.mkfifo(tmp_path / "pipe.jpg")  # reading it would never end
    names = ["thin.png", "torn.jpg", "pipe.jpg", "gone.jpg"]
    page, _ = report(tmp_path, [unusable(name, "for a reason") for name in names])
    assert [name for name, _ in thumbnails(page)] == ["thin.png", "torn.jpg"]


def test_the_unusable_are_grouped_by_the_kind_of_their_reason(tmp_path: Path) -> None:
    reasons = ["not an image", "not an image but a web page", "damaged: ab", "damaged: abc"]
    page, _ = report(tmp_path, [unusable(f"{reason}.jpg", reason) for reason in reasons])
    cards = [card.split("<figure>") for card in page.split('<div class="card"><h3>')[1:]]
    assert [(title.split(" <")[0], len(figures)) for title, *figures in cards] == [
        ("damaged", 2),
        ("not an image", 1),
        ("not an image but a web page", 1),
    ]


def test_the_file_to_keep_and_the_part_inside_a_border_are_marked(tmp_path: Path) -> None:
    facts = [usable("a.png", 200, 100, frame=(20, 25, 170, 90)), usable("b.png")]
    page, _ = report(tmp_path, facts, [["b.png", "a.png"]])
    assert page.count('<i style="inset:25.00% 15.00% 10.00% 10.00%"></i>') == 1
    assert re.findall(r"<em>kept</em></div><figcaption><bdi>(.*?)<", page) == ["b.png"]


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs the browser chromium")
def test_a_browser_shows_every_image_even_on_a_phone(tmp_path: Path) -> None:
    for name in ("a.png", "b.png", "c.png"):
        Image.new("RGB", (400, 300), "red").save(tmp_path / name)
    long = "x" * 150 + ".png"
    Image.new("RGB", (4000, 200), "gold").save(tmp_path / long)
    facts = [
        usable("a.png", 400, 300),
        usable("b.png", 400, 300, frame=(40, 30, 360, 270)),
        usable(long, 4000, 200),
        unusable("c.png", "only one colour, #ff0000"),
    ]
    page, _ = report(tmp_path, facts, [["a.png", "b.png"]])
    shown = len(Parsed(page).images)

    # The report has no script of its own; this one reports what the browser shows.
    asked = """<script>onload = () => {
      const page = document.documentElement;
      const shown = [...document.images].filter(image => image.naturalWidth && image.clientHeight);
      document.title = `${shown.length} shown, ${page.scrollWidth - page.clientWidth} too wide`;
    }</script>"""
    probe = tmp_path / "probe.html"
    probe.write_text(page + asked, encoding="utf-8")
    options = ["--window-size=400,800", f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom"]
    command = [*CHROMIUM.split(), *options, probe.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert shown == 10
    assert f"<title>{shown} shown, 0 too wide</title>" in done.stdout, done.stderr
