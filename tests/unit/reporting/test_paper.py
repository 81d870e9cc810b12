"""Boards for a paper: a longtable that compiles, vector plots, labels apart from each other, lines only for curves."""

import re
import shutil
import subprocess

import pytest
import sharing_records
from drawn_axes import axes_drawn
from record_factory import make_record

from dpbench.board.leaderboard import build_board
from dpbench.errors import DpbenchError
from dpbench.protocols.sharing.records import SHARED
from dpbench.records.store import CELLS
from dpbench.reporting.longtable import tex
from dpbench.reporting.paper_table import COLUMNS, write_paper_table
from dpbench.reporting.plots import tradeoff_plot
from dpbench.reporting.plots.plot_style import note, panels, with_labels
from dpbench.reporting.plots.tradeoff_plot import write_tradeoff


def records():
    common = {"correct": [True] * 9 + [False], "reid_rank": 0, "lpips": 0.1}
    made = [
        make_record(attack=attack, ssim=ssim, split_point=point, **common)
        for point in ("layer1", "layer2")
        for attack, ssim in (("rmle", 0.9), ("mean-image", 0.1))
    ]
    for number, arguments in enumerate(({"std": 0.5}, {"std": 1.0}, {"std": 2.0})):
        made.append(make_record(defense="gaussian", defense_args=arguments, ssim=0.8 - 0.1 * number, **common))
    for number, arguments in enumerate(({"a": 1, "b": 1}, {"a": 2, "b": 1}, {"a": 2, "b": 3})):
        made.append(make_record(defense="mine_50%", defense_args=arguments, ssim=0.5 - 0.1 * number, **common))
    return made


@pytest.fixture(scope="module")
def board():
    return build_board(records())


def lines_of(path):
    return path.read_text(encoding="utf-8").splitlines()


def test_a_table_has_worst_cases_and_eight_columns(board, tmp_path):
    count = write_paper_table(board, tmp_path / "table.tex")
    lines = lines_of(tmp_path / "table.tex")
    assert count == board["attack"].isin(["worst-case", "floor"]).sum()
    rows = [line for line in lines if re.search(r"[^\\]&", line) and not line.startswith(r"\toprule")]
    assert len(rows) == count
    assert {len(re.split(r"(?<!\\)&", row)) for row in rows} == {len(COLUMNS)} == {8}
    assert all(row.endswith(r" \\") for row in rows)
    assert any(row.startswith(r"mine\_50\% a=2 b=3 & weights & 90.0 & ") for row in rows)
    assert sum(r"\emph{" in line for line in lines) == 2
    text = "\n".join(lines)
    assert text.count(r"p{2.4cm}lrrrrrr@{}}") == text.count(r"\end{longtable}") == 1


def test_rows_columns_and_labels_are_chosen(tmp_path, dpbench):
    for record in records():
        CELLS.write(tmp_path / "run", record)
    arguments = ("leaderboard", tmp_path / "run", "--output", tmp_path / "table.tex", "--labels", "gaussian=Ours & co")
    outcome = dpbench(*arguments, "--rows", "attacks", "--columns", "defense, attacker,psnr_db,status")
    assert outcome.status == 0, outcome
    lines = lines_of(tmp_path / "table.tex")
    assert r"Ours \& co std=0.5 & rmle (weights) & -- & ok \\" in lines or any("Ours" in line for line in lines)
    assert any(line.startswith(r"\toprule Defense & Attacker & PSNR & status") for line in lines)
    assert dpbench(*arguments[:2], "--output", tmp_path / "x.csv", "--rows", "all").status == 2
    assert "did you mean 'worst'" in dpbench(*arguments, "--rows", "wurst").err
    assert "unknown column 'sim'" in dpbench(*arguments, "--columns", "sim").err
    assert "unknown defense 'gauss'" in dpbench(*arguments[:4], "--labels", "gauss=X").err
    assert "keeps its name" in dpbench(*arguments[:4], "--labels", "none=X").err
    assert "expected NAME=LABEL" in dpbench(*arguments[:4], "--labels", "gaussian").err
    assert (
        "expected --output FILE in .png, .pdf, .svg, .tex"
        in dpbench(*arguments[:2], "--output", tmp_path / "x.csv", "--labels", "gaussian=X").err
    )


def test_a_board_of_shared_features_is_a_table_too(tmp_path, dpbench):
    for record in (
        sharing_records.trained("own", [True] * 8 + [False] * 12),
        sharing_records.trained("clean-features", [True] * 14 + [False] * 6),
        sharing_records.trained("defended-features", [True] * 13 + [False] * 7, defense="gaussian"),
        sharing_records.trained("defended-features", [True] * 12 + [False] * 8, defense="strong"),
        sharing_records.attacked("mean-image", "public", [0.1] * 4, "none"),
        sharing_records.attacked("decoder", "public", [0.9] * 4, "none"),
        sharing_records.attacked("decoder", "query", [0.5] * 4, "gaussian"),
    ):
        SHARED.write(tmp_path / "run", record)
    arguments = ("leaderboard", tmp_path / "run", "--output", tmp_path / "table.tex", "--labels", "gaussian=G & co")
    assert dpbench(*arguments).out.endswith("5 rows\n")
    lines = lines_of(tmp_path / "table.tex")
    assert any(line.startswith(r"\toprule Trained on & Top-1/\% & Gain/points & Kept/\% & SSIM & ") for line in lines)
    (row,) = [line for line in lines if line.startswith(r"+ G \& co std=1.0 & 65.0 & 25.0 [")]
    assert r"] & -- & 0.50 & -- & -- & 0." in row
    assert any(line.startswith("floor & -- & ") for line in lines)
    outcome = dpbench(*arguments, "--rows", "features", "--columns", "condition,shared_images,serves")
    assert outcome.out.endswith("4 rows\n")
    assert r"+ G \& co std=2.0 & 20 & clinic=0.5000 hospital=0.4000 \\" in lines_of(tmp_path / "table.tex")
    assert "unknown column 'sim'" in dpbench(*arguments, "--columns", "sim").err
    assert "unknown rows 'worst'" in dpbench(*arguments, "--rows", "worst").err
    assert dpbench(*arguments[:4], "--plot", "transfer").status == 2


def test_what_strangers_wrote_is_no_command(tmp_path):
    evil = r"\input{/etc/passwd}$#~^_{}<|>" + '"'
    board = build_board([make_record(defense=evil), make_record()])
    write_paper_table(board, tmp_path / "table.tex")
    text = (tmp_path / "table.tex").read_text()
    assert r"\input" not in text
    assert r"passwd\}\$\#\textasciitilde{}\textasciicircum{}\_\{\}\textless{}\textbar{}\textgreater{}" in text


def test_the_table_compiles(board, tmp_path):
    write_paper_table(board, tmp_path / "table.tex")
    text = (tmp_path / "table.tex").read_text()
    assert text.count("{") == text.count("}")
    assert re.findall(r"\\(begin|end|begingroup|endgroup)\b", text) == ["begingroup", "begin", "end", "endgroup"]
    if shutil.which("pdflatex") is None:  # the structure says most of it
        return
    article = r"\documentclass{article}\usepackage{array,booktabs,longtable}\begin{document}\input{table}\end{document}"
    (tmp_path / "article.tex").write_text(article)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "article.tex"]
    for _ in range(3):  # the widths of columns are known at the second or third
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stdout[-2000:]
    assert "Overfull" not in done.stdout


@pytest.mark.parametrize("ending", ["png", "pdf", "svg"])
def test_plots_are_written_in_every_form_and_are_the_same_twice(tmp_path, dpbench, ending):
    for record in records():
        CELLS.write(tmp_path / "run", record)
    for name in ("a", "b"):
        outcome = dpbench("leaderboard", tmp_path / "run", "--output", tmp_path / f"{name}.{ending}")
        assert outcome.status == 0, outcome
    start = {"png": b"\x89PNG", "pdf": b"%PDF", "svg": b"<?xml"}[ending]
    assert (tmp_path / f"a.{ending}").read_bytes().startswith(start)
    assert (tmp_path / f"a.{ending}").read_bytes() == (tmp_path / f"b.{ending}").read_bytes()


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    """Draws a trade-off and returns its axes."""
    return lambda board: axes_drawn(monkeypatch, tradeoff_plot, lambda: write_tradeoff(board, tmp_path / "plot.png"))


def test_only_what_is_a_curve_has_a_line_and_panels_have_equal_axes(board, drawn):
    axes = drawn(with_labels(board.copy(), {"gaussian": "Ours"}))
    lines = {line.get_label(): line.get_linestyle() for line in axes[0].get_lines() if len(line.get_xdata()) > 1}
    assert {name: style for name, style in lines.items() if name[0] != "_" and name != "floor"} == {
        "Ours (std)": "-",
        "mine_50% (a,b)": "None",
    }
    assert len({one.get_xlim() for one in axes}) == 1
    assert all(one.get_ylim() == axes[0].get_ylim() for one in axes if one.get_subplotspec().rowspan.start == 0)


def test_a_defense_has_one_name_in_the_legend_where_one_panel_has_more_of_its_settings(drawn):
    alone = make_record(defense="gaussian", defense_args={"std": 0.5}, split_point="layer2", ssim=0.7, lpips=0.1)
    axes = drawn(build_board([*records(), alone]))
    names = {name for one in axes for name in one.get_legend_handles_labels()[1]}
    assert {name for name in names if "gaussian" in name} == {"gaussian (std)"}


def test_a_legend_has_the_parameters_of_every_panel_where_they_differ_between_panels(drawn):
    settings = [("layer1", {"a": 1, "b": 1}), ("layer1", {"a": 2, "b": 1}), ("layer2", {"a": 1, "b": 1})]
    settings.append(("layer2", {"a": 1, "b": 2}))
    made = [make_record(defense="mine", defense_args=given, split_point=at, lpips=0.1) for at, given in settings]
    axes = drawn(build_board(made))
    assert "mine (a,b)" in {name for one in axes for name in one.get_legend_handles_labels()[1]}


def test_notes_beside_near_points_do_not_cover_each_other(tmp_path):
    with panels(tmp_path / "plot.png", (4, 3), (1, 1)) as grid:
        axes = grid[0, 0]
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1)
        for number in range(4):
            place = (0.5 + 0.01 * number, 0.5)
            axes.plot(*place, "o")
            note(axes, f"label {number}", place, "black")
    axes.figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in axes.texts if text.get_text()]
    assert len(boxes) == 4
    assert not any(one.overlaps(other) for place, one in enumerate(boxes) for other in boxes[place + 1 :])
    assert all(axes.get_window_extent().contains(*box.min) for box in boxes)


def test_a_line_leads_to_a_note_that_is_not_beside_its_point(tmp_path):
    with panels(tmp_path / "plot.png", (4, 3), (1, 2)) as grid:
        alone, crowded = grid[0]
        for axes, points in ((alone, 1), (crowded, 12)):
            for number in range(points):
                axes.plot(0.5, 0.5, "o")
                note(axes, f"label {number}", (0.5, 0.5), "black")
    assert [text.arrow_patch is not None for text in alone.texts] == [False]
    leading = [text for text in crowded.texts if text.arrow_patch is not None]
    assert len(leading) >= 4
    assert all(text.xy == (0.5, 0.5) for text in leading)


def test_a_board_without_such_rows_is_refused(board, tmp_path):
    with pytest.raises(DpbenchError, match="nothing to write"):
        write_paper_table(board[:0], tmp_path / "x.tex")


def test_no_text_is_taken_for_what_ends_a_row():
    assert tex("[ours] * [x]") == "{[}ours] {*} {[}x]"
