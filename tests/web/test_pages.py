"""The two pages in a browser."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser, Page, Route, expect

from flowstates import FlowRunStateRepository, NewFlowRunState, StateType
from flowstates.values import Layout
from tests.conftest import Pool
from tests.inserted import insert
from tests.servers import POINT_AT_NEWEST
from tests.web.browser import PATIENCE
from tests.web.conftest import Visit
from tests.web.made import a_day
from tests.web.serving import serving

HOSTILE = "<img src=x onerror=alert(1)><script>alert(2)</script>\"'&amp;\u202e" + "w" * 300
PHONE = {"viewport": {"width": 320, "height": 640}}
expect.set_options(timeout=PATIENCE)


@pytest.fixture
async def address(states: FlowRunStateRepository) -> AsyncIterator[str]:
    async with serving(states) as address:
        yield address


async def add(
    pool: Pool, layout: Layout, run: UUID, *types: StateType, name: str | None = None, message: str | None = None, minutes: float = 0
) -> None:
    begin = datetime.now(UTC) - timedelta(minutes=minutes)
    new = [
        NewFlowRunState(flow_run_id=run, type=type_, timestamp=begin + timedelta(seconds=index), name=name, message=message)
        for index, type_ in enumerate(types)
    ]
    await insert(pool, layout, new)


def rows(page: Page) -> object:
    return page.locator("tbody tr").filter(has=page.locator("td"))


async def test_one_goes_from_the_runs_to_a_run_and_back(own_pool: Pool, layout: Layout, states: FlowRunStateRepository, visit: Visit) -> None:
    run = uuid4()
    await add(own_pool, layout, run, StateType.PENDING, StateType.RUNNING, StateType.COMPLETED, minutes=5)
    # Behind a proxy that takes something off the path and tells nobody, and behind one that does tell.
    for options in ({"under": "/tools/states"}, {"root_path": "/proxied"}, {"prefix": "/states"}):
        async with serving(states, **options) as address:
            page = await visit(address)
            await expect(page.locator("h1")).to_have_text("Runs")
            await page.get_by_role("link", name=str(run)).click()
            await expect(page.locator("h1")).to_have_text(f"Run {run}")
            await expect(page.locator("#states tr")).to_have_count(3)
            await page.get_by_role("link", name="All states as JSON").click()
            await page.wait_for_url(f"**/flow_runs/{run}/states")
            await page.go_back()
            await expect(page.locator("h1")).to_have_text(f"Run {run}")
            await page.get_by_role("link", name="Runs").click()
            await expect(page.locator("h1")).to_have_text("Runs")


async def test_runs_are_chosen_with_the_keyboard_alone(own_pool: Pool, layout: Layout, address: str, visit: Visit) -> None:
    running, failed = uuid4(), uuid4()
    await add(own_pool, layout, running, StateType.RUNNING, minutes=5)
    await add(own_pool, layout, failed, StateType.FAILED, name="TimedOut", minutes=90)
    page = await visit(address)

    async def tab_to(label: str) -> None:
        for _ in range(40):
            await page.keyboard.press("Tab")
            if await page.evaluate("document.activeElement.closest('label')?.textContent.trim() ?? ''") == label:
                return
        raise AssertionError(f"no way to {label}")

    await tab_to("×FAILED 1")  # noqa: RUF001
    await page.keyboard.press("Space")
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("link", name=str(running))).to_have_count(0)
    await expect(page.get_by_role("link", name=str(failed))).to_have_count(1)
    await expect(page.get_by_role("checkbox", name="FAILED")).to_be_checked()
    await tab_to("and before")
    await page.keyboard.type("2h")
    await page.keyboard.press("Enter")
    await expect(page.get_by_text("No such runs.")).to_be_visible()
    await page.get_by_role("link", name="All", exact=True).click()
    await tab_to("In it since")
    await page.keyboard.type("1h")
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("link", name=str(running))).to_have_count(1)
    await expect(page.get_by_role("link", name=str(failed))).to_have_count(0)
    await page.get_by_label("In it since").fill("soon")
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("alert")).to_contain_text("'soon' is not a time such as")
    await expect(page.get_by_label("In it since")).to_be_focused()
    await expect(page.get_by_label("In it since")).to_have_value("soon")
    await expect(page.get_by_label("In it since")).to_have_accessible_description(re.compile("^'soon' is not a time such as"))
    await page.get_by_label("In it since").fill("1h")
    await page.keyboard.press("Enter")
    await expect(page.locator("#shown")).to_be_in_viewport()
    await page.goto(address)
    await page.keyboard.press("Tab")
    await page.keyboard.press("Enter")
    await page.keyboard.press("Tab")
    await expect(page.get_by_role("link", name=str(running))).to_be_focused()


async def test_marks_that_combine_stay_in_their_cell(own_pool: Pool, layout: Layout, address: str, visit: Visit) -> None:
    run = uuid4()
    await add(own_pool, layout, run, StateType.RUNNING, name="x" + "\u0300" * 150, minutes=1)
    for path, cell in (("", ".runs td"), (f"runs/{run}", ".states td")):
        page = await visit(address + path)
        assert await page.locator(cell).evaluate_all("cells => cells.every(cell => getComputedStyle(cell).overflow !== 'visible')")


async def test_a_run_whose_newest_state_cannot_be_read_stays_live(own_pool: Pool, layout: Layout, address: str, visit: Visit) -> None:
    run = uuid4()
    await add(own_pool, layout, run, StateType.PENDING, StateType.RUNNING, minutes=1)
    await own_pool.execute("update flow_run_state set state_details = $1::text::jsonb where type = 'RUNNING'", '{"flow_run_id": "x"}')
    page = await visit(f"{address}runs/{run}")
    await expect(page.locator("#summary")).to_contain_text("cannot be read: state_details")
    await expect(page.get_by_role("status")).to_have_text("Live.")
    await add(own_pool, layout, run, StateType.PAUSED)
    await expect(page.get_by_role("status")).to_have_text("Live. New state: PAUSED.")
    await add(own_pool, layout, run, StateType.COMPLETED)
    await expect(page.get_by_role("status")).to_have_text("The run has ended: COMPLETED.")
    await expect(page.locator("#states tr")).to_have_count(4)
    assert (await Axe().run(page)).violations_count == 0


async def test_a_run_ends_while_one_looks(own_pool: Pool, layout: Layout, address: str, visit: Visit) -> None:
    run = uuid4()
    await add(own_pool, layout, run, StateType.PENDING, StateType.RUNNING, minutes=1)
    page = await visit(f"{address}runs/{run}")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    await expect(page.get_by_role("status")).to_have_text("Live.")
    opened = page.locator("#states tr").nth(1).locator("summary")
    await opened.press("Enter")
    await add(own_pool, layout, run, StateType.PAUSED)
    await expect(page.get_by_role("status")).to_have_text("Live. New state: PAUSED.")
    await add(own_pool, layout, run, StateType.COMPLETED, message="all done")
    await expect(page.get_by_role("status")).to_have_text("The run has ended: COMPLETED.")
    await expect(page.locator("#states tr")).to_have_count(4)
    await expect(page.locator("#summary")).to_contain_text("all done")
    await expect(page.locator("#chart .end.COMPLETED")).to_have_count(1)
    assert await page.title() == f"COMPLETED run {run}"
    # What one has opened, and where one is, stays.
    await expect(opened).to_be_focused()
    assert await opened.evaluate("summary => summary.parentElement.open")
    assert {url.partition("?")[0] for url in asked} == {f"{address}runs/{run}"}


async def test_a_run_that_grows_while_one_looks_says_what_it_leaves_out(own_pool: Pool, layout: Layout, address: str, visit: Visit) -> None:
    run = uuid4()
    await add(own_pool, layout, run, *[StateType.RUNNING] * 49, minutes=200)
    page = await visit(f"{address}runs/{run}")
    await expect(page.get_by_role("status")).to_have_text("Live.")
    await expect(page.get_by_text("The chart has the newest 50 states.")).to_have_count(0)
    await add(own_pool, layout, run, *[StateType.PAUSED] * 70)
    await expect(page.get_by_text("The chart has the newest 50 states.")).to_have_count(1)
    await expect(page.get_by_role("link", name="The newest 119 states")).to_have_count(1)


async def test_how_long_a_state_lasts_is_told_anew_also_of_an_old_run(own_pool: Pool, layout: Layout, address: str, visit: Visit) -> None:
    run = uuid4()
    await add(own_pool, layout, run, StateType.PENDING, minutes=14_400)
    await add(own_pool, layout, run, StateType.RUNNING)
    page = await visit(f"{address}runs/{run}")
    spent = page.locator("#states tr").nth(1).locator(".spent")
    was = await spent.text_content()
    assert was is not None
    await expect(spent).not_to_have_text(was)


async def test_what_has_ended_is_not_asked_about(own_pool: Pool, layout: Layout, address: str, visit: Visit) -> None:
    run = uuid4()
    await add(own_pool, layout, run, StateType.RUNNING, minutes=1)
    page = await visit("about:blank")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    await page.clock.install()
    await page.goto(f"{address}runs/{run}")
    await page.clock.run_for(2_500)
    await expect(page.get_by_role("status")).to_have_text("Live.")
    await add(own_pool, layout, run, StateType.FAILED)
    await page.clock.run_for(2_500)
    await expect(page.get_by_role("status")).to_have_text("The run has ended: FAILED.")
    asked.clear()
    await page.clock.run_for(600_000)
    assert asked == []
    await page.reload()
    asked.clear()
    await page.clock.run_for(600_000)
    assert asked == []
    await expect(page.get_by_role("status")).to_have_text("The run has ended.")


async def test_a_server_that_is_away_is_asked_again(own_pool: Pool, layout: Layout, address: str, visit: Visit) -> None:
    run = uuid4()
    await add(own_pool, layout, run, StateType.RUNNING, minutes=1)
    page = await visit(f"{address}runs/{run}")

    async def abort(route: Route) -> None:
        await route.abort()

    await page.route("**/*", abort)
    await expect(page.get_by_role("status")).to_have_text(re.compile(r"^No news \(.*\)\. Asks again in \d+ s\.$"))
    await page.unroute("**/*")
    await expect(page.get_by_role("status")).to_have_text("Live.")
    await own_pool.execute("delete from flow_run_state")
    await expect(page.get_by_role("status")).to_have_text("The run is no longer there.")


async def test_hostile_texts_are_texts(own_pool: Pool, layout: Layout, address: str, visit: Visit) -> None:
    run = uuid4()
    state = NewFlowRunState(flow_run_id=run, type="RUNNING", name=HOSTILE, message=f"{HOSTILE}\n{HOSTILE}", data={HOSTILE: HOSTILE})
    await insert(own_pool, layout, [state])
    for path in ("", f"runs/{run}"):
        page = await visit(address + path, **PHONE)
        await expect(page.locator("body")).to_contain_text("<img src=x onerror=alert(1)><script>alert(2)</script>")
        assert await page.locator("img, script:not(:text('use strict'))").count() in (0, 1)
        assert await page.locator("img").count() == 0
        if path:
            await page.locator("#states summary").click()
            await expect(page.locator("pre").last).to_be_visible()
            # Also after it was looked at again.
            await expect(page.get_by_role("status")).to_have_text("Live.")
        assert await page.evaluate("document.documentElement.scrollWidth") <= 320


async def test_the_policy_lets_no_other_script_or_style_in(own_pool: Pool, layout: Layout, address: str, chromium: Browser) -> None:
    await add(own_pool, layout, uuid4(), StateType.RUNNING)
    page = await chromium.new_page()
    refused: list[str] = []
    page.on("console", lambda message: refused.append(message.text))
    await page.goto(address)
    assert refused == []
    was, colour = await page.evaluate(
        """() => {
            document.body.insertAdjacentHTML("beforeend", "<b id=x style='color: rgb(255, 0, 0)' onclick='window.was = 1'>x</b>");
            const script = document.createElement("script");
            script.textContent = "window.was = 2";
            document.body.append(script);
            document.getElementById("x").click();
            return [window.was ?? null, getComputedStyle(document.getElementById("x")).color];
        }"""
    )
    assert was is None
    assert colour != "rgb(255, 0, 0)"
    assert len(refused) == 3
    assert all("Content Security Policy" in text for text in refused)


async def test_a_phone_has_a_chart_of_its_own(own_pool: Pool, layout: Layout, address: str, visit: Visit) -> None:
    run = uuid4()
    await add(own_pool, layout, run, StateType.PENDING, StateType.RUNNING, StateType.COMPLETED, minutes=5)
    page = await visit(f"{address}runs/{run}", **PHONE)
    await expect(page.locator(".flowstates-strip")).to_be_visible()
    await expect(page.locator(".flowstates-timeline")).to_be_hidden()
    box = await page.locator(".flowstates-strip").bounding_box()
    assert box is not None
    assert 200 < box["width"] < 320
    await page.set_viewport_size({"width": 1000, "height": 800})
    await expect(page.locator(".flowstates-strip")).to_be_hidden()
    await expect(page.locator(".flowstates-timeline")).to_be_visible()


async def test_a_page_reads_without_scripts(own_pool: Pool, layout: Layout, address: str, visit: Visit) -> None:
    run = uuid4()
    await add(own_pool, layout, run, StateType.RUNNING, minutes=1)
    page = await visit(f"{address}runs/{run}", java_script_enabled=False)
    await expect(page.get_by_role("status")).to_have_text(re.compile("^As of "))
    await expect(page.locator("#states tr")).to_have_count(1)


@pytest.mark.parametrize("layout", ["flowstates"], indirect=True)
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [(320, 640), (1200, 800)])
async def test_a_checker_of_accessibility_finds_nothing(
    own_pool: Pool, layout: Layout, address: str, visit: Visit, scheme: str, size: tuple[int, int]
) -> None:
    made = a_day(datetime.now(UTC), runs=60)
    await insert(own_pool, layout, made)
    ended = next(state.flow_run_id for state in made if state.name == "AwaitingRetry")
    open_ = uuid4()
    await add(own_pool, layout, open_, StateType.PENDING, StateType.RUNNING, message="on worker 3", minutes=5)
    for path in ("", "?type=RUNNING&since=2h", "?since=soon", f"runs/{ended}", f"runs/{open_}", f"runs/{uuid4()}"):
        page = await visit(address + path, viewport={"width": size[0], "height": size[1]}, color_scheme=scheme)
        for summary in await page.locator("summary").all():
            await summary.press("Enter")
        found = await Axe().run(page)
        assert found.violations_count == 0, (path, found.generate_report())
        assert await page.evaluate("document.documentElement.scrollWidth") <= size[0], path
        # Colours are those of the scheme.
        ground = await page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, re.findall(r"\d+", ground)[:3])) > 384) is (scheme == "light")
        await page.context.close()


async def test_a_hundred_thousand_runs(own_pool: Pool, layout: Layout, address: str, visit: Visit) -> None:
    async with own_pool.acquire() as connection:
        if layout == "prefect":
            await connection.execute("insert into flow_run (id) select md5(n::text)::uuid from generate_series(1, 100000) as n")
        await connection.execute(
            """
            insert into flow_run_state (flow_run_id, type, name, timestamp)
            select md5(n::text)::uuid, type::state_type, initcap(type), now() - interval '1 second' * (n * 2 - position)
              from generate_series(1, 100000) as n,
                   lateral (values (0, 'PENDING'), (1, case when n % 1000 = 7 then 'RUNNING' else 'COMPLETED' end)) as state (position, type)
            """
        )
        await connection.execute(POINT_AT_NEWEST[layout], None)
        await connection.execute("analyze")
    page = await visit(address)
    await expect(page.locator("header")).to_contain_text("100,000 in all")
    await expect(page.locator(".runs tbody tr")).to_have_count(50)
    first = await page.locator(".runs tbody a").first.text_content()
    await page.get_by_role("link", name="Older").click()
    await page.get_by_role("link", name="Older").click()
    await expect(page.locator(".runs tbody tr")).to_have_count(50)
    await page.get_by_role("link", name="First page").click()
    await expect(page.locator(".runs tbody a").first).to_have_text(first or "")
    await page.get_by_role("checkbox", name="RUNNING").check()
    await page.get_by_role("button", name="Show").click()
    await expect(page.locator(".runs tbody tr")).to_have_count(50)
    await page.get_by_role("link", name="Older").click()
    await expect(page.locator(".runs tbody tr")).to_have_count(50)
    await expect(page.get_by_role("link", name="Older")).to_have_count(0)
