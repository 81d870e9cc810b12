"""`report.html` as readers meet it, in a real browser: of a run, of shared features, of a board."""

import io
import shutil
import threading
import unicodedata

import pypdf
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import sync_playwright
from reported_runs import HOSTILE, VICTIMS, write_run, write_sharing_run

from dpbench.records.store import CELLS
from dpbench.viewing.reports import report_of_run
from dpbench.viewing.server import Server

WIDTHS = [380, 1440]
PAGES = ["run", "sharing", "board"]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Name -> page."""
    from dpbench.protocols.inference.protocol import Inference
    from dpbench.report.page import write_page

    root = tmp_path_factory.mktemp("pages")
    run, sharing = write_run(root / "run"), write_sharing_run(root / "sharing")
    found = {name: root / f"{name}.html" for name in PAGES}
    write_page(report_of_run(run), found["run"])
    write_page(report_of_run(sharing), found["sharing"])
    inference, records = Inference(), list(CELLS.all(run))
    inference.write(records, inference.board(records), found["board"], "tradeoff")
    return found


@pytest.fixture(scope="module")
def browser():
    program = shutil.which("chromium")
    assert program, "the report is tested in a real browser: apt-get install chromium"
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def visit(browser, files):
    """Opens a page; at the end of the test: it reported no error, and asked nobody for anything."""
    contexts, asked, said = [], [], []

    def opened(name, width=1440, **options):
        context = browser.new_context(viewport={"width": width, "height": 900}, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        name, _, place = name.partition("#")
        page.goto(f"{files[name].as_uri()}#{place}")
        return page

    yield opened
    for context in contexts:
        context.close()
    assert said == []
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []


def all_seen(page):
    """Everything unfolded, all columns shown, every plot drawn."""
    page.click("#unfold")
    if page.locator("button.columns").count():
        page.click("button.columns")
    for plot in page.locator(".plot[data-plot]").all():
        plot.scroll_into_view_if_needed()
        plot.locator(".js-plotly-plot").wait_for()
    return page


def column(page, place):
    return page.locator(f"#main tbody tr:visible > :nth-child({place})").all_inner_texts()


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", PAGES)
def test_it_fits_the_screen_asks_for_nothing_and_reports_no_error(visit, name, width):
    page = all_seen(visit(name, width))
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for picture in page.locator("img").all():
        assert picture.evaluate("image => image.complete && image.naturalWidth > 0")


@pytest.mark.parametrize(("name", "scheme"), [("run", "light"), ("run", "dark"), ("sharing", "light")])
def test_it_is_accessible(visit, name, scheme):
    """Headings, alternative texts, names of controls, contrast and the like, as axe-core checks them."""
    page = visit(name, color_scheme=scheme)
    page.evaluate(
        "document.querySelectorAll('#main tbody tr:nth-child(n+6), #cells tbody tr').forEach(row => row.remove())"
    )
    page.click("#unfold")
    found = Axe().run(page, options={"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]})
    told = [
        (one["id"], node["html"][:200], node["failureSummary"])
        for one in found.response["violations"]
        for node in one["nodes"]
    ]
    assert told == []


def test_the_answer_comes_first_and_in_plain_words(visit):
    page = visit("run")
    assert page.locator("h1").inner_text() == "test"
    heading = page.locator("main h2").first.inner_text()
    assert heading.endswith(
        "Yes, behind 4 of the 8 defense settings tested. Of 2 of the 8 defense settings tested nothing can be said."
    )
    assert page.locator("main section").first.get_attribute("id") == "answer"
    order = page.locator("main section").evaluate_all("all => all.map(one => one.id)")
    assert order == ["answer", "pictures", "figures", "attackers", "plots", "steps", "glossary", "untested", "more"]


def test_the_table_is_sorted_by_a_click_and_by_a_key(visit):
    page = visit("run")
    head = page.locator("#main th[aria-sort]").nth(1)
    head.locator("button").click()
    rising = [float(text.split("%")[0]) for text in column(page, 2)]
    assert head.get_attribute("aria-sort") == "ascending"
    assert rising == sorted(rising)
    head.locator("button").focus()
    page.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "descending"
    assert [float(text.split("%")[0]) for text in column(page, 2)] == sorted(rising, reverse=True)


def test_figures_are_sorted_as_numbers_and_gaps_come_last(visit):
    page = visit("run")
    page.locator("#main thead button").nth(2).click()
    texts = column(page, 3)
    assert texts[-1] == "attack failed"
    assert "0.20" in texts[0]


def test_the_table_is_filtered_by_words_and_by_attacker(visit):
    page = visit("run")
    assert page.locator(".tools[data-for=main] .count").inner_text() == "10 of 18 rows"
    page.select_option(".tools[data-for=main] select", "all")
    page.fill(".tools[data-for=main] input", "gaussian layer2")
    assert [text.split()[1] for text in column(page, 1)] == ["gaussian", "gaussian"]
    assert page.locator(".tools[data-for=main] .count").inner_text() == "2 of 18 rows"


def test_all_columns_are_one_click_away(visit):
    page = visit("run")
    heads = page.locator("#main thead th:visible")
    assert [text.split()[0] for text in heads.all_inner_texts()] == [
        "defense",
        "accuracy",
        "recovered?",
        "re-identified",
        "label",
        "against",
    ]
    page.click("button.columns")
    assert "psnr_db" in " ".join(heads.all_inner_texts())


def test_it_folds_by_mouse_and_by_key(visit):
    page = visit("run")
    fold = page.locator("#more details").last
    assert not fold.get_attribute("open")
    fold.locator("summary").focus()
    page.keyboard.press("Enter")
    assert fold.locator("table").is_visible()
    page.click("#unfold")
    assert page.locator("details:not([open])").count() == 0
    page.click("#unfold")
    assert page.locator("details[open]").count() == 0


def test_a_picture_says_more_to_a_pointer_and_to_the_keyboard(visit):
    page = visit("run")
    figure = page.locator("#pictures figure[tabindex]").nth(VICTIMS + 1)
    figure.focus()
    assert figure.evaluate("one => getComputedStyle(one, '::after').content") == f'"{figure.get_attribute("title")}"'
    assert "SSIM" in figure.get_attribute("title")
    figure.hover()
    assert "re-identified" in figure.get_attribute("title")


def test_images_that_attacks_showed_stand_side_by_side(visit):
    page = visit("run")
    films = page.locator("#steps .strip")
    assert films.count() == 8
    assert films.first.locator("figcaption").all_inner_texts() == ["1", "10", "20"]
    assert films.first.locator("img").first.get_attribute("alt") == "what rmle behind none showed at step 1"
    assert films.first.locator("img").first.bounding_box()["width"] > 30


def test_plots_say_which_way_is_worse_and_of_what_they_are(visit):
    page = all_seen(visit("run"))
    texts = page.locator(".plot .js-plotly-plot").all_inner_texts()
    assert len(texts) == 3  # two split points, and what attacks logged
    assert all("up = leaks more" in text and "leaves, resnet10t split at layer" in text for text in texts[:2])
    plot = page.locator(".plot").first
    plot.locator("select").select_option("re-identified (%)")
    page.wait_for_function("document.querySelector('.ytitle').textContent.includes('re-identified')")
    assert plot.locator(".scatterlayer .point").count() > 3


def test_shared_features_have_their_plots(visit):
    page = all_seen(visit("sharing"))
    titles = page.locator(".plot h3").all_inner_texts()
    assert [title.partition(":")[0] for title in titles] == ["Gain and leak", "Transfer between fits"]
    assert page.locator(".plot .heatmaplayer image").count() == 1
    assert page.locator(".plot .heatmap-label").all_text_contents() == ["0.50", "0.30", "0.50", "0.30"]


def test_a_defense_has_one_colour_and_one_sign_everywhere(visit):
    page = all_seen(visit("run"))
    rows = page.locator("#main tbody th:has-text('gaussian') .sign, .strip b:has-text('gaussian') .sign")
    found = set(rows.evaluate_all("all => all.map(one => [one.textContent, one.style.color].join(' '))"))
    assert len(found) == 1
    marks = page.evaluate(
        "[...document.querySelectorAll('.js-plotly-plot')].flatMap(plot => plot.data)"
        ".filter(trace => trace.name === 'gaussian').map(trace => trace.marker.color)"
    )
    shown = page.evaluate(
        "colour => { const one = new Option().style; one.color = colour; return one.color; }", marks[0]
    )
    assert found.pop().endswith(shown)
    assert len(set(marks)) == 1


@pytest.mark.parametrize("name", ["run", "sharing"])
def test_it_prints_to_a4_without_loss(visit, name):
    """Also what is folded, filtered away or wider than the sheet on a screen."""
    page = visit(f"{name}#print")
    page.wait_for_function("document.documentElement.dataset.ready === 'yes'")
    page.fill(".tools[data-for=main] input", "nothing has this name")
    page.evaluate("document.querySelectorAll('details').forEach(fold => { fold.open = false; })")
    texts = page.locator("#main tbody th, #cells tbody td, dd, dt, main li, h2").evaluate_all(
        "all => all.map(one => one.textContent)"
    )
    sheets = pypdf.PdfReader(io.BytesIO(page.pdf(format="A4", prefer_css_page_size=True))).pages
    assert {round(float(sheet.mediabox.width)) for sheet in sheets} == {595}
    printed = squeezed("".join(sheet.extract_text() for sheet in sheets))
    assert [text for text in texts if squeezed(text) not in printed] == []


def squeezed(text):
    """Without what lines and fonts do to it: spaces, hyphens, ligatures, capitals."""
    return "".join(unicodedata.normalize("NFKC", text).casefold().split()).replace("-", "")


def test_names_from_a_record_stay_text(visit):
    page = all_seen(visit("run"))
    assert page.title() == "test \u00b7 dpbench report"
    assert page.locator("img[src=x]").count() == 0
    assert HOSTILE in page.locator("#main").inner_text()
    assert HOSTILE in page.locator("#pictures").inner_text()
    legends = page.locator(".legendtext").all_text_contents()
    assert any(HOSTILE in text for text in legends)


def test_it_reads_without_scripts(browser, files):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(files["run"].as_uri())
    assert page.locator("#main tbody tr").count() == 18
    assert page.locator("#main tbody tr").first.is_visible()
    context.close()


def test_a_page_is_small_enough_to_send(files):
    assert files["run"].stat().st_size < 3_000_000


@pytest.mark.parametrize("width", WIDTHS)
def test_the_view_of_a_folder_fits_the_screen_and_asks_itself_alone(browser, files, width):
    root = files["run"].parent
    shutil.copytree(root / "run", root / "again", dirs_exist_ok=True)
    with Server(root, 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        context = browser.new_context(viewport={"width": width, "height": 900})
        page = context.new_page()
        asked, said = [], []
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: said.append(message.text))
        page.goto(server.url)
        page.click("text=again")
        page.locator("main img").first.wait_for()
        page.wait_for_load_state("load")
        assert page.locator("main img").first.evaluate("image => image.complete && image.naturalWidth > 0")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.click("text=The report, as far as the run is")
        page.locator("#answer").wait_for(state="visible")  # the report is made when it is asked for
        page.goto(server.url)
        page.select_option("select[name=one]", "again")
        page.select_option("select[name=other]", "run")
        page.click("button:has-text('Compare')")
        assert page.locator("h1").inner_text() == "Two runs side by side"
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        context.close()
        server.shutdown()
    assert said == []
    assert [url for url in asked if not url.startswith((server.url, "data:"))] == []
