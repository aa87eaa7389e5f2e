"""The report as text, and in a real browser where there is one."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest
import yaml
from PIL import Image

from configs import get_defaults
from processor import html_report
from processor.html_report import PICTURES, flatten, main, read_run, run_labels, write_report

VOID = {"meta", "link", "img", "br"}
PROBE = """<script>
const table = document.querySelectorAll("table")[INDEX];
const button = table.tHead.rows[0].cells[1].querySelector("button");
const first = () => [...table.tBodies[0].rows].map(row => row.cells[0].textContent).join(",");
const seen = [first()]; button.click(); seen.push(first()); button.click(); seen.push(first());
const images = [...document.images];
Promise.all(images.map(i => i.decode())).then(() => document.body.dataset.probe = JSON.stringify({
  seen, sort: table.tHead.rows[0].cells[1].getAttribute("aria-sort"),
  widths: images.map(i => i.naturalWidth * (i.getBoundingClientRect().height > 20)),
  alts: images.every(i => i.alt.length > 10), resources: performance.getEntriesByType("resource")
    .map(r => r.name).filter(name => !name.startsWith("data:"))}));
</script>"""


class Checker(HTMLParser):
    """Collects what is wrong: tags that do not close, and everything that would be fetched."""

    def __init__(self):
        super().__init__()
        self.open, self.fetched, self.headings, self.images = [], [], [], 0

    def handle_starttag(self, tag, attrs):
        self.fetched += [v for k, v in attrs if k in ("src", "href") and not v.startswith(("data:", "#"))]
        self.images += tag == "img"
        if tag not in VOID:
            self.open.append(tag)
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def checked(text):
    checker = Checker()
    checker.feed(text)
    assert not checker.open and not checker.fetched
    assert not re.search(r"https?://|url\(|@import", text)
    assert checker.headings[0] == 1 and set(checker.headings[1:]) == {2}
    return checker


def make_run(folder, precision, seed=1, pictures=True):
    """A finished run's folder with made-up numbers."""
    folder.mkdir(parents=True)
    settings = get_defaults()
    settings.SOLVER.SEED = seed
    settings.OUTPUT_DIR = str(folder)
    (folder / "config.yml").write_text(settings.dump())
    mean_ap = 100 * float(np.nanmean(precision))
    row = {"mAP": mean_ap, "Rank-1": 50.0, "Rank-5": 60.0, "Rank-10": 70.0, "mINP": 9.5, "queries": len(precision)}
    row |= {"queries_without_match": 0, "seconds": 1.0, "weights": "random <start>", "dataset": "hand"}
    row |= {"model": "RN-Tiny", "method": "clipreid"}
    counts = {"images": 9, "identities": 3, "cameras": 1, "views": 2}
    data = {"name": "hand", "camera_rule": "none", "splits": {"query": counts}, "notes": ["one & only"]}
    results = {"untrained": row | {"mAP": 100.0}, "trained": row}
    content = {"seconds": 5.0, "history": [], "results": results, "data": data, "environment": {"torch": "2.x"}}
    (folder / "metrics.json").write_text(json.dumps(content))
    names = np.array([f"/somewhere/{folder.name}/{i}.png" for i in range(len(precision))])
    identity = np.array([f"p{i // 2}" for i in range(len(precision))])
    np.savez(folder / "queries.npz", path=names, identity=identity, average_precision=precision)
    if pictures:
        (folder / "pictures").mkdir()
        for name in PICTURES:
            place = folder if name in ("curves", "ranking") else folder / "pictures"
            noise = np.random.default_rng(0).integers(0, 255, (400, 400, 3), np.uint8)  # large: it becomes a JPEG
            Image.fromarray(noise if name == "ranking" else noise[:40]).save(place / f"{name}.png")
    return folder


@pytest.fixture
def runs(tmp_path):
    rng = np.random.default_rng(0)
    base = rng.uniform(0.2, 0.8, 20)
    return [make_run(tmp_path / f"seed{i}", base + 0.05 * i, i, pictures=i == 0) for i in range(3)]


def test_a_run(runs):
    path = write_report(runs[0])
    assert path == runs[0] / "report.html"
    text = path.read_text()
    assert checked(text).images == len(PICTURES) and text.count("image/jpeg") == 1
    for words in (
        "random &lt;start&gt;",
        "one &amp; only",
        "SOLVER.SEED",
        "torch",
        f"{len(flatten(get_defaults())) - 2} keys",
    ):
        assert words in text, words
    changed = dict(re.findall(r'<th scope="row">([A-Z_.]+)</th><td.*?>(.*?)</td>', text))
    assert changed == {"SOLVER.SEED": "0", "OUTPUT_DIR": ".../seed0"}


def test_results_and_pictures_come_before_the_configuration_which_folds(runs):
    content = json.loads((runs[0] / "metrics.json").read_text())
    content["results"]["trained"]["verification"] = {"comparisons": "all", "table": [["EER", "1.00%"]]}
    (runs[0] / "metrics.json").write_text(json.dumps(content))
    text = write_report(runs[0]).read_text()
    titles = re.findall(r"<h2[^>]*>(.*?)</h2>", text)
    assert titles == ["Results", "Biometric performance", "Pictures", "Data", "Configuration", "Environment"]
    configuration = text[text.index("Configuration</h2>") : text.index("Environment</h2>")]
    opened, closed = configuration.index("<details>"), configuration.index("</details>")
    assert opened < configuration.index("SOLVER.SEED") < closed and "<details" not in text[: text.index("Data</h2>")]


def test_pictures_are_those_of_the_row_that_is_named(runs):
    text = write_report(runs[0]).read_text()
    assert "Pictures of an evaluation show the row <strong>trained</strong>." in text
    change(runs[0], TEST__PICTURES=False)  # measured again without: the pictures there are older
    assert checked(write_report(runs[0]).read_text()).images == 1


def test_the_recipe_is_a_column(runs, tmp_path):
    recipe = tmp_path / "recipe.yml"
    recipe.write_text(yaml.safe_dump({"SOLVER": {"SEED": 77}, "TEST": {"FLIP": True}}))
    text = write_report(runs[0], recipe=recipe).read_text()
    rows = {
        key: (mine, theirs, default)
        for key, mine, theirs, default in re.findall(
            r'<th scope="row">([A-Z_.]+)</th><td.*?>(.*?)</td><td.*?>(.*?)</td><td.*?>(.*?)</td>', text
        )
    }
    assert rows["SOLVER.SEED"] == ("0", "77", "1234") and rows["TEST.FLIP"] == ("False", "True", "False")


def test_a_comparison(runs, tmp_path, capsys):
    output = tmp_path / "comparison.html"
    assert main([*map(str, runs), "--output", str(output)]) == 0
    assert str(output) in capsys.readouterr().out
    text = output.read_text()
    checked(text)
    values = [read_run(run).result["mAP"] for run in runs]
    assert f'data-value="{np.mean(values)!r}"' in text or f">{np.mean(values):.1f}<" in text
    assert f">{np.std(values, ddof=1):.1f}<" in text
    (row,) = re.findall(r'seed2 - seed0</th><td class="number" data-value="([^"]*)"', text)
    assert float(row) == pytest.approx(10)
    assert "SOLVER.SEED" in text and "OUTPUT_DIR" not in text
    other = make_run(tmp_path / "other", np.full(4, 0.5))
    assert main([str(runs[0]), str(other), "--output", str(output)]) == 0
    assert "Not the queries of seed0: other" in output.read_text()
    assert "do not compare" not in text


def test_runs_of_different_protocols_are_not_pooled_without_a_warning(runs, tmp_path, capsys):
    other = make_run(tmp_path / "other", np.full(4, 0.5))
    settings = get_defaults()
    settings.TEST.AP, settings.OUTPUT_DIR = "trapezoid", str(other)
    (other / "config.yml").write_text(settings.dump())
    assert main([str(runs[0]), str(other), "--output", str(tmp_path / "c.html")]) == 0
    assert "in other ways (TEST.AP): their numbers cannot be compared" in capsys.readouterr().err
    text = (tmp_path / "c.html").read_text()
    assert "their numbers cannot be compared" in text and "there is no mean to give" in text
    assert "standard deviation of" not in text and "Both runs have the same queries" not in text


def change(run, **keys):
    """Other values in the configuration or, for small letters, in the row of the result."""
    settings, metrics = yaml.safe_load((run / "config.yml").read_text()), json.loads((run / "metrics.json").read_text())
    for key, value in keys.items():
        *groups, leaf = key.split("__")
        node = metrics["results"]["trained"] if key.islower() else settings
        for group in groups:
            node = node[group]
        node[leaf] = value
    (run / "config.yml").write_text(yaml.safe_dump(settings))
    (run / "metrics.json").write_text(json.dumps(metrics))


def means(text):
    """The table of means: for each group of runs its mAP and its deviation."""
    rows = re.findall(r'<th scope="row">(mean|standard deviation) of ([^<]*)</th><td[^>]*data-value="([^"]*)"', text)
    return {(what, runs): float(value) for what, runs, value in rows}


def test_means_are_over_seeds_only(tmp_path, capsys):
    """Two configurations of two seeds each, and a run on other data: two means, by hand, and none over all."""
    values = {"a1": 0.2, "a2": 0.4, "b1": 0.6, "b2": 0.9, "c": 0.5}
    runs = {
        name: make_run(tmp_path / name, np.full(4, mean), i, False) for i, (name, mean) in enumerate(values.items())
    }
    for name in ("b1", "b2"):
        change(runs[name], SOLVER__STAGE2__BASE_LR=0.5)
    change(runs["c"], images="of others")
    for name in ("a1", "a2", "b1", "b2"):
        change(runs[name], images="of these")
    assert main([*map(str, runs.values()), "--output", str(tmp_path / "c.html")]) == 0
    text = (tmp_path / "c.html").read_text()
    found = means(text)
    assert found == pytest.approx(
        {
            ("mean", "a1, a2"): 30,
            ("standard deviation", "a1, a2"): 100 * np.std([0.2, 0.4], ddof=1),
            ("mean", "b1, b2"): 75,
            ("standard deviation", "b1, b2"): 100 * np.std([0.6, 0.9], ddof=1),
        }
    )
    assert "(the test images): their numbers cannot be compared" in capsys.readouterr().err
    assert "Not tested as a1 was: c." in text and "c - a1" not in text and "b2 - a1" in text


def test_what_distinguishes_seeds_from_configurations(tmp_path):
    """Where the data lies, who computes and which weights are tested may differ; what features are taken may not."""
    runs = [make_run(tmp_path / str(i), np.full(4, 0.1 + 0.2 * i), i, False) for i in range(3)]
    change(runs[1], MODEL__DEVICE="cpu", TEST__WEIGHT="other.pth", DATALOADER__NUM_WORKERS=1, DATASETS__CACHE="none")
    change(runs[2], TEST__NECK_FEAT="before")
    main([*map(str, runs), "--output", str(tmp_path / "c.html")])
    assert [runs for what, runs in means((tmp_path / "c.html").read_text()) if what == "mean"] == ["0, 1"]


def test_folders_that_are_no_runs(tmp_path, capsys):
    assert main([str(tmp_path)]) == 2
    assert "not the folder of a finished run" in capsys.readouterr().err


def test_labels(tmp_path):
    runs = [make_run(tmp_path / place, np.ones(2), pictures=False) for place in ("a/x", "b/x")]
    assert run_labels([read_run(run) for run in runs]) == ["a/x", "b/x"]
    with pytest.raises(html_report.ReIDError, match="named twice"):
        run_labels([read_run(runs[0])] * 2)


@pytest.fixture(scope="session")
def browser():
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("SKIPPED: no chromium; the report is not looked at in a browser (apt-get install chromium)")
    return path


def probed(browser, page, table, folder):
    """``page`` in a browser: the probe's answer and the console's messages."""
    copy = folder / "probed.html"
    copy.write_text(page.read_text().replace("</body>", PROBE.replace("INDEX", str(table)) + "</body>"))
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--dump-dom"]
    command += ["--virtual-time-budget=5000", f"--user-data-dir={folder / 'profile'}", copy.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    (answer,) = re.findall(r"data-probe=\"(.*?)\"", done.stdout)
    return json.loads(answer.replace("&quot;", '"')), [x for x in done.stderr.splitlines() if "CONSOLE" in x]


@pytest.mark.slow
def test_in_a_browser(runs, browser, tmp_path):
    found, console = probed(browser, write_report(runs[0]), 0, tmp_path)
    assert not console and not found["resources"]
    assert len(found["widths"]) == len(PICTURES) and all(found["widths"]) and found["alts"]
    assert found["seen"] == ["untrained,trained", "trained,untrained", "untrained,trained"]
    assert found["sort"] == "descending"


@pytest.mark.slow
def test_the_probe_detects_a_console_error(browser, tmp_path):
    page = tmp_path / "page.html"
    page.write_text("<body><script>missing()</script><table><thead><tr><th>a<th><button>b</thead><tbody></body>")
    assert probed(browser, page, 0, tmp_path)[1]
