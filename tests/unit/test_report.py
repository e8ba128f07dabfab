import json
import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from comfyui_ddm.debias.core.error import DDMError
from comfyui_ddm.debias.evaluation.evaluate import build_report
from comfyui_ddm.debias.evaluation.report import FairnessReport
from comfyui_ddm.debias.groups.target import Target
from comfyui_ddm.debias.probes.probe import Probe
from comfyui_ddm.debias.probes.records import Attribute, Condition, EvaluationData
from comfyui_ddm.debias.rendering import charts
from comfyui_ddm.debias.rendering.charts import save_png
from comfyui_ddm.debias.rendering.report_html import overview, render_report
from comfyui_ddm.training.commands.report import report as report_command
from comfyui_ddm.training.embedded.demo import EXAMPLES
from comfyui_ddm.training.evaluation.evaluate_folder import read_records
from comfyui_ddm.training.evaluation.load_probes import targets_of
from PIL import Image

EVIL = "<script>alert('1')</script> & $x_1^{"
ROLES = ("firefighter", "doctor", "judge")


def _records(alphas=(0, 0.5, 1), per_prompt=80, target="uniform", names=("man", "woman"), prompts=None, **rest):
    """Men 85% at α = 0 and 50% at α = 1; tones always half and half; roles nearly always right."""
    rng = np.random.default_rng(0)
    prompts = prompts or [f"a {role}" for role in ROLES]
    prompt, condition, seed, gender, tone, role = [], [], [], [], [], []
    for alpha in alphas:
        for p, words in enumerate(prompts):
            draw = np.random.default_rng(p).random((per_prompt, 3))
            men = draw[:, 0] < 0.85 - 0.35 * alpha
            prompt += [words] * per_prompt
            condition += [Condition(alpha)] * per_prompt
            seed += range(p * per_prompt, (p + 1) * per_prompt)
            gender.append(np.where(men[:, None], [0.95, 0.05], [0.05, 0.95]))
            tone.append(np.where(draw[:, 1:2] < 0.5, [0.9, 0.1], [0.1, 0.9]))
            role.append(np.eye(len(ROLES))[np.where(draw[:, 2] < 0.95, p % 3, (p + 1) % 3)])
    count = len(prompt)
    attributes = [
        Attribute(
            "gender", names, np.concatenate(gender), Target.parse(target, names), 0.95, [[0.95, 0.05], [0.05, 0.95]]
        ),
        Attribute("tone", ("dark", "light"), np.concatenate(tone), None, 0.9),
        Attribute("role", ROLES, np.concatenate(role), None, 0.97),
    ]
    features = np.concatenate([np.concatenate(gender) * 3, rng.normal(size=(count, 4))], 1)
    return EvaluationData.of(prompt, attributes, condition, seed, features=features, **rest)


@pytest.fixture(scope="module")
def report():
    return build_report(_records(), resamples=300)


def test_the_summary_is_a_sentence_that_says_before_and_after(report):
    assert re.fullmatch(
        r"Prompt by prompt, gender is \.4\d from the target at α = 0, \.0\d \(\.\d\d–\.\d\d\) at α = 1 "
        r"\(FD; a fair model shows up to \.\d\d\).*\. Worst is “a \w+”: (man|woman) 5\d%\. "
        r"Over all prompts: at α = 0 men are 8\d% of 240 images; at α = 1 they are \d\d% \(\d\d–\d\d%\)\.",
        report.summary,
    )


def test_shares_fall_over_alpha_and_the_verdict_follows(report):
    gender = report.attributes[0]
    men = [one.shares[0].value for one in gender.overall]
    assert men == sorted(men, reverse=True)
    assert gender.overall[0].verdict == "not fair"
    assert gender.overall[2].fd.value < gender.overall[0].fd.value
    for one in gender.overall:
        for value in (*one.shares, one.fd, one.pairwise_bias, one.parity_gap):
            assert value.low <= value.value <= value.high


def test_an_attribute_without_a_target_is_watched_for_drift(report):
    tone = report.attributes[1]
    assert not tone.targeted
    assert [one.drift for one in tone.overall] == [None, "unchanged within ±.10", "unchanged within ±.10"]


def test_a_probe_for_what_the_prompts_name_tells_fidelity(report):
    assert report.fidelity == "role"
    assert [one.name for one in report.attributes] == ["gender", "tone"]
    assert all(one.recognised.value > 0.85 for one in report.quality)


def test_prompts_come_worst_first(report):
    rows = [row.fd for row in report.attributes[0].prompts if row.condition == 0]
    assert rows == sorted(rows, reverse=True)


def test_quality_is_measured_against_the_base(report):
    assert report.quality[0].kid is None
    assert report.quality[2].paired_images == 240
    assert report.quality[2].kid > report.quality[1].kid > -1


def test_images_that_an_adapter_leaves_as_they_are_are_at_no_distance():
    records = _records((0, 1), per_prompt=10)
    still = np.tile(records.features[records.condition == records.base], (2, 1))
    price = build_report(replace(records, features=still), resamples=50).quality[1]
    assert (price.kid, price.paired_distance) == pytest.approx((0, 0), abs=1e-9)


def test_the_worst_intersection_is_found(report):
    first = report.intersections[0]
    assert first.attributes == ["gender", "tone"]
    assert first.rows[first.worst[0]] == "woman"
    assert sum(cell.value for row in first.shares for cell in row) == pytest.approx(1)


def test_corrected_shares_stand_beside_the_measured_ones(report):
    one = report.attributes[0].overall[0]
    assert one.corrected[0].value > one.shares[0].value


def test_it_round_trips_through_json(report):
    assert FairnessReport.from_json(report.to_json()) == report
    with pytest.raises(DDMError, match="not a fairness report"):
        FairnessReport.from_json('{"format": 2}')
    with pytest.raises(DDMError, match="not a fairness report"):
        FairnessReport.from_json("[]")


def test_the_same_records_make_the_same_report(report):
    again = build_report(_records(), resamples=300)
    assert again == report
    assert render_report(again) == render_report(report)


def test_a_report_of_hardly_any_determined_image_keeps_its_interval_and_its_chart():
    said = np.array([[0.9, 0.1], [0.5, 0.5]] * 4)
    attribute = Attribute("gender", ("man", "woman"), said, Target.uniform(("man", "woman")))
    conditions = [Condition(alpha) for alpha in (0.0, 1.0) for _ in range(4)]
    report = build_report(EvaluationData.of(["a doctor"] * 8, [attribute], conditions, list(range(4)) * 2))
    assert report.attributes[0].overall[1].fd.low is not None
    assert "<svg" in render_report(report)


def test_undetermined_images_are_shown_and_not_counted():
    records = _records(alphas=(0,))
    records.attributes[0].probabilities[:60] = 0.5
    records.attributes[0].probabilities[60:70] = np.nan
    overall = build_report(records, resamples=50).attributes[0].overall[0]
    assert (overall.images, overall.undetermined) == (240, 70)
    rows = build_report(records, resamples=50).attributes[0].prompts
    assert sum(sum(row.counts) + row.undetermined for row in rows) == 240


def test_images_that_cannot_be_told_at_all_still_make_a_report():
    records = _records(alphas=(0, 1))
    records.attributes[0].probabilities[:] = 0.5
    report = build_report(records, resamples=50)
    assert report.attributes[0].overall[0].shares[0].value is None
    assert FairnessReport.from_json(report.to_json()) == report
    assert "none of" in report.summary.lower() and "<svg" in render_report(report)


def test_few_images_get_no_verdict():
    report = build_report(_records(per_prompt=20), resamples=50)
    assert {row.verdict for row in report.attributes[0].prompts} == {"too few to say"}
    assert report.attributes[0].overall[0].verdict == "too few to say"
    assert "too few images for a verdict" in report.summary


def test_one_image_is_enough_for_a_report():
    one = EvaluationData.of(
        ["a doctor"], [Attribute("gender", ("man", "woman"), [[0.9, 0.1]], Target.uniform(("man", "woman")))]
    )
    report = build_report(one)
    assert FairnessReport.from_json(report.to_json()) == report
    assert "<svg" in render_report(report)


def test_an_uneven_target_is_met_where_it_is_met():
    report = build_report(_records(alphas=(0, 1), per_prompt=400, target="man=.5,woman=.5"), resamples=200)
    assert report.attributes[0].overall[1].verdict == "fair within ±.10"
    report = build_report(_records(alphas=(0, 1), per_prompt=400, target="man=.85,woman=.15"), resamples=200)
    assert report.attributes[0].overall[1].verdict == "not fair"


def test_a_target_over_other_classes_is_refused():
    with pytest.raises(DDMError) as caught:
        Attribute("gender", ("man", "woman"), np.ones((2, 2)) / 2, Target.uniform(("cat", "dog")))
    assert all(name in str(caught.value) for name in ("cat", "dog", "man", "woman"))


def test_no_image_is_an_error_that_says_so():
    with pytest.raises(DDMError, match="no images"):
        EvaluationData.of([], [Attribute("gender", ("man", "woman"), np.zeros((0, 2)))])


def test_every_users_string_is_escaped(tmp_path):
    names = (EVIL, "woman")
    records = _records(alphas=(0, 1), names=names, prompts=[EVIL, "<img src=x onerror=alert(1)>"])
    missing = tmp_path / "<b>missing</b>.png"
    records = EvaluationData(
        records.prompts,
        [Condition(0), Condition(1, name="<i>name</i>")],
        records.prompt,
        records.condition,
        records.seed,
        records.attributes,
        records.features,
        [missing] * len(records.prompt),
        ["<b>note</b>"],
    )
    report = build_report(records, title=EVIL, reference=records.features, reference_name="<u>folder</u>", resamples=50)
    page = render_report(report)
    for tag in ("<script", "<img", "<i>name", "<b>", "<u>"):
        assert tag not in page
    assert "&lt;script&gt;" in page
    save_png(overview(report), tmp_path / "chart.png")


def test_the_page_needs_nothing_from_outside(report):
    page = render_report(report)
    links = re.findall(r"(?:src|href)=\"([^\"]*)\"", page) + re.findall(r"url\(([^)]*)\)", page)
    assert all(link.startswith(("data:", "#")) for link in links)
    assert "prefers-color-scheme: dark" in page and "<script" not in page
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)[1]
    assert {"default-src 'none'", "form-action 'none'", "base-uri 'none'"} <= set(policy.split("; "))
    assert policy in (EXAMPLES.parent / "web" / "panel" / "files.js").read_text("utf-8")  # where ComfyUI opens it


def test_images_of_one_seed_stand_side_by_side(tmp_path):
    records = _records(alphas=(0, 1), per_prompt=20)
    paths = []
    for i in range(len(records.prompt)):
        paths.append(tmp_path / f"{i}.png")
        Image.new("RGB", (8, 8), (i % 255, 0, 0)).save(paths[-1])
    paths[0].write_bytes(b"broken")
    records = _records(alphas=(0, 1), per_prompt=20, paths=paths)
    report = build_report(records, resamples=50)
    sheet = report.sheets[0]
    assert sheet.rows == ["α = 0", "α = 1"]
    before, after = ([one.caption.split(":")[0] for one in row] for row in sheet.images)
    assert before == after
    assert report.clusters and report.clusters[0].examples
    assert "Of the images for the contact sheets, 1 could not be opened." in report.notes
    assert "data:image" in report.to_json() and "data:image" not in report.to_json(images=False)


def test_charts_are_drawn_without_a_global_state_and_follow_the_theme(tmp_path):
    alpha = [0, 0.5, 1]
    shares = np.array([[0.8, 0.2], [0.65, 0.35], [0.5, 0.5]])
    figures = [
        charts.shares_over_alpha(alpha, shares, shares - 0.05, shares + 0.05, ("_man", "$woman"), (0.5, 0.5)),
        charts.pareto([0.4, 0.2, 0.1], [0.01, 0.012, 0.02], ["α = 0", "α = 0.5", "$\\frac"]),
        charts.loss_curve(range(100), np.linspace(1, 0, 100)),
    ]
    for figure in figures:
        svg = charts.to_svg(figure, 'a "label"')
        assert svg.startswith("<svg") and "var(--series-0)" in svg and ' id="figure' not in svg
        charts.save_png(figure, tmp_path / "chart.png")
        assert Image.open(tmp_path / "chart.png").size[0] > 500
    assert "_man" in charts.to_svg(figures[0]) and "$woman" in charts.to_svg(figures[0])


class _Probe(SimpleNamespace):
    """Says man where an image is red."""

    made_for = ""

    def look(self, images, prompts=None):
        features = images.reshape(len(images), -1, 3).mean(1)
        return features, features

    def unlike(self, features):
        return np.zeros(len(features), bool)

    def predict_features(self, features):
        man = (features[:, :1] > 128).astype(float)
        return np.concatenate([man, 1 - man], 1)


def _probe():
    return _Probe(names=("man", "woman"), attribute="gender", accuracy=0.9, confusion=np.eye(2), network=object())


def test_a_sampled_folder_is_read_with_its_prompts_seeds_and_alphas(tmp_path):
    rows = []
    for alpha in (0, 0.5):
        for seed in range(4):
            name = f"alpha_{alpha}/a-doctor/{seed}.png"
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8), (255, 0, 0) if seed > 2 * alpha else (0, 0, 0)).save(tmp_path / name)
            rows.append({"file_name": name, "prompt": "a doctor", "seed": seed, "alpha": alpha, "cfg": 3.0})
    rows.append({"file_name": "gone.png", "prompt": "a doctor", "seed": 9, "alpha": 0, "cfg": 3.0})
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    probe = _probe()
    records = read_records(tmp_path, [probe], targets_of([probe], None), probe)
    assert [one.label for one in records.conditions] == ["α = 0", "α = 0.5"]
    assert records.prompts == ["a doctor"] and records.seed.tolist() == [0, 1, 2, 3] * 2
    assert records.features.shape == (8, 3)
    assert any("gone.png" in note for note in records.notes)


def test_a_plain_folder_is_read_with_subfolders_as_prompts(tmp_path):
    for role in ("doctor", "judge"):
        for i in range(3):
            (tmp_path / role).mkdir(exist_ok=True)
            Image.new("RGB", (8, 8), (255, 0, 0)).save(tmp_path / role / f"{i}.png")
    records = read_records(tmp_path, [_probe()], [None])
    assert records.prompts == ["doctor", "judge"]
    assert len(set(records.seed)) == 6


def test_targets_are_given_in_the_order_of_the_probes():
    assert targets_of([_probe()], ["man=.75,woman=.25"])[0].shares.tolist() == [0.75, 0.25]
    with pytest.raises(DDMError, match="2 targets for 1 probes"):
        targets_of([_probe()], ["uniform", "uniform"])
    with pytest.raises(DDMError, match="cat"):
        targets_of([_probe()], ["cat=.5,dog=.5"])


def test_the_command_writes_page_figures_and_chart(tmp_path):
    torch = pytest.importorskip("torch")
    module = pytest.importorskip("comfyui_ddm.debias.probes.probe")
    network = pytest.importorskip("comfyui_ddm.debias.probes.probe_network")
    typer = pytest.importorskip("typer")
    from typer.testing import CliRunner

    for role in ("doctor", "judge"):
        (tmp_path / "in" / role).mkdir(parents=True)
        for i in range(6):
            Image.new("RGB", (8, 8), (i * 40, 0, 0)).save(tmp_path / "in" / role / f"{i}.png")
    torch.manual_seed(0)
    trunk = network.ProbeNetwork(16)
    probe = module.Probe(("man", "woman"), "gender", torch.nn.Linear(16, 2), trunk)
    probe.accuracy, probe.confusion = 0.9, np.eye(2)
    probe.save(tmp_path / "gender.safetensors")
    app = typer.Typer()
    app.command()(report_command)
    arguments = [str(tmp_path / "in"), "--probe", str(tmp_path / "gender.safetensors"), "--device", "cpu", "--json"]
    result = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / "out.html")], catch_exceptions=False)
    assert result.exit_code == 0
    assert json.loads(result.stdout)["attributes"][0]["name"] == "gender"
    assert all((tmp_path / f"out.{kind}").stat().st_size for kind in ("html", "json", "png"))
    assert "data:image/jpeg" in (tmp_path / "out.html").read_text(encoding="utf-8")
    with pytest.raises(DDMError, match="cat"):
        CliRunner().invoke(app, [*arguments, "--target", "cat=.5,dog=.5"], catch_exceptions=False)


def test_a_folder_with_black_images_names_them_and_counts_them_for_nobody(tmp_path):
    rng = np.random.default_rng(0)
    for number in range(4):
        Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(tmp_path / f"{number}.png")
        Image.new("RGB", (64, 64)).save(tmp_path / f"black-{number}.png")
    gender = Probe.load(EXAMPLES / "probes" / "gender.safetensors")
    data = read_records(tmp_path, [gender], targets_of([gender], ["uniform"]))
    black = [path.name.startswith("black") for path in data.paths]
    assert (data.attributes[0].probabilities.max(1) == 0).tolist() == black
    assert any("show nothing" in note and "black-0.png" in note for note in data.notes)


@pytest.mark.parametrize(
    ("version", "words"), [(1, "an older version. Write it again"), (99, "a newer version. Update")]
)
def test_a_report_of_another_version_is_refused_in_a_sentence(report, version, words):
    text = json.dumps(json.loads(report.to_json()) | {"format": version})
    with pytest.raises(DDMError, match=words):
        FairnessReport.from_json(text)
