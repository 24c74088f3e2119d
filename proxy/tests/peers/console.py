"""Opens the console in Chromium as operators do, and holds it to what is promised of it.

console.py ADMIN_URL AXE_FILE [SCREENSHOT]: tells its stages, a JSON object a line; at some it waits for a line to come.
Ends with 0 where everything held; tells on standard error what did not.
"""

import json
import re
import shutil
import sys
import urllib.parse
import urllib.request

from playwright.sync_api import expect, sync_playwright

ADMIN, AXE = sys.argv[1:3]
SCREENSHOT = sys.argv[3] if len(sys.argv) > 3 else None
PATIENCE = 20_000
SIZES = [(360, 780), (1440, 900), (1920, 1080)]


# How far things moved without being asked to: https://web.dev/articles/cls, for each of them alone. Rows of the stream move down, and
# out of it, as others come: that is what it is for.
SHIFTS = """
window.shifted = 0;
new PerformanceObserver((list) => {
  for (const entry of list.getEntries().filter((entry) => !entry.hadRecentInput))
    for (const { node, previousRect: from, currentRect: to } of entry.sources) {
      const element = node?.closest ? node : node?.parentElement;
      if (!element?.isConnected || element.closest('.stream')) continue;
      const area = Math.max(from.width * from.height, to.width * to.height) / (innerWidth * innerHeight);
      const way = Math.max(Math.abs(from.x - to.x), Math.abs(from.y - to.y)) / Math.max(innerWidth, innerHeight);
      window.shifted += area * way;
    }
}).observe({ type: 'layout-shift', buffered: true });
"""


def tell(stage):
    print(json.dumps({"stage": stage}), flush=True)


def pause(stage):
    """Waits at this stage until a line comes."""
    tell(stage)
    sys.stdin.readline()


def fetch(path):
    with urllib.request.urlopen(ADMIN + path, timeout=10) as answer:
        return answer.read().decode()


def metrics():
    """Requests, refusals and failures by route, as `/metrics` has them."""
    told = {}
    line = re.compile(r'^(http_server_request_duration_seconds_count|foregate_refusals_total)\{(.*)\} (\S+)$')
    for found in filter(None, map(line.match, fetch("/metrics").splitlines())):
        name, labels, value = found[1], dict(re.findall(r'(\w+)="([^"]*)"', found[2])), int(float(found[3]))
        route = labels.get("http_route", labels.get("route"))
        counts = told.setdefault(route, {"requests": 0, "refused": 0, "failed": 0})
        if name.startswith("foregate"):
            counts["refused"] += value
        else:
            counts["requests"] += value
            if labels["http_response_status_code"].startswith("5") or "error_type" in labels:
                counts["failed"] += value
    return told


def number(text):
    return int(text.replace(",", ""))


def shown(page):
    """The same, as the page has them."""
    told = {}
    for row in page.locator("#routes tbody tr").all():
        name = row.locator("th").inner_text()
        cells = [cell.inner_text() for cell in row.locator("td").all()]
        requests, refused, failed = map(number, cells[-3:])
        told["" if name == "no route" else name] = {"requests": requests, "refused": refused, "failed": failed}
    return told


def until(what, get, wanted, page):
    """Waits for a fact that the page comes to by itself."""
    for _ in range(100):
        last = get()
        if wanted(last):
            return last
        page.wait_for_timeout(100)
    raise AssertionError(f"{what}: {last}")


class Seen:
    """All that a browser complained about."""

    def __init__(self, page):
        self.complaints = []
        page.on("console", lambda message: message.type in ("error", "warning") and self.complaints.append(message.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("requestfailed", self.failed)
        page.on("request", self.asked)

    def failed(self, request):
        # The stream of a filter that was changed is given up.
        if "/decisions/stream" not in request.url:
            self.complaints.append(f"{request.url}: {request.failure}")

    def asked(self, request):
        if not request.url.startswith(ADMIN):
            self.complaints.append(f"asked elsewhere: {request.url}")

    def none(self):
        assert not self.complaints, self.complaints


def open_page(browser, scheme="light", size=(1440, 900), address="", **options):
    context = browser.new_context(
        color_scheme=scheme, viewport={"width": size[0], "height": size[1]}, permissions=["clipboard-read", "clipboard-write"], **options
    )
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    page.add_init_script(SHIFTS)
    seen = Seen(page)
    page.goto(f"{ADMIN}/console/{address}")
    expect(page.locator(".state")).to_have_text("Ready", timeout=PATIENCE)
    return page, seen


def under_load(browser):
    """Numbers move, decisions come, and nothing jumps."""
    page, seen = open_page(browser)
    expect(page.locator(".figure dd").first).not_to_have_text("0/s", timeout=PATIENCE)
    expect(page.locator("#decisions tbody tr").nth(20)).to_be_visible(timeout=PATIENCE)
    first = page.locator("#decisions tbody th").first
    before = first.inner_text()
    until("a newer decision", first.inner_text, lambda text: text > before, page)
    until("a line over time", lambda: page.locator("#requests .plot").get_attribute("aria-label"), lambda text: "now " in text, page)
    # What people do not notice: https://web.dev/articles/cls.
    assert page.evaluate("window.shifted") < 0.1, page.evaluate("window.shifted")
    page.get_by_role("button", name="Hold").click()
    held = first.inner_text()
    until("some that wait", lambda: page.locator(".bar span").first.inner_text(), lambda text: re.match(r"[1-9][\d,]* new", text), page)
    assert first.inner_text() == held
    page.get_by_role("button", name="Go on").click()
    until("those that waited", first.inner_text, lambda text: text > held, page)
    seen.none()
    page.context.close()


def numbers(browser):
    """Once nothing comes any more, page and metrics say the same."""
    page, seen = open_page(browser)
    wanted = metrics()
    assert wanted and sum(route["refused"] for route in wanted.values()) > 0, wanted
    until(f"the numbers of /metrics, {wanted}", lambda: shown(page), lambda told: told == wanted, page)
    below = page.locator(".figures .below").all_inner_texts()
    total = {name: sum(route[name] for route in wanted.values()) for name in ("requests", "refused", "failed")}
    assert number(below[0].split()[0]) == total["requests"], below
    assert number(below[1].split()[0]) == total["failed"], below
    assert number(below[2].split()[0]) == total["refused"], below
    # What comes to dispatch was refused by nobody before.
    steps = {row.locator("th").inner_text(): row for row in page.locator("#funnel tbody tr").all()}
    assert list(steps) == re.findall(r"\w+", "accept handshake pin route guard identify admit enrich decide shape dispatch respond record")
    assert number(steps["accept"].locator("td").first.inner_text()) == total["requests"]
    refused = sum(number(row.locator("td").nth(1).inner_text().replace("\u00b7", "0")) for row in steps.values())
    assert refused == total["refused"], (refused, total)
    for panel in ("funnel", "models"):
        assert page.locator(f"#{panel} .command code").inner_text() == f"foregate top --once --format json --admin {ADMIN}", panel
    expect(page.locator("#models svg")).to_be_visible()
    assert number(page.locator("#models .legend b").first.inner_text().split()[0]) > 0
    expect(page.locator("#models article dd").first).to_contain_text("\u00b5s")
    seen.none()
    page.context.close()


def filters(browser):
    """The same words narrow the list, stand in the address and in the command."""
    page, seen = open_page(browser)
    page.get_by_label("Refusals only").check()
    page.get_by_role("combobox", name="Step", exact=True).select_option("guard")
    rows = page.locator("#decisions tbody tr")
    steps = lambda: {row.locator("td").nth(3).inner_text() for row in rows.all()}
    until("refusals of one step", steps, lambda told: told == {"guard"}, page)
    assert page.url.endswith("/console/?step=guard&refused=true"), page.url
    assert "foregate tap --step guard --refused --admin" in page.locator("#decisions .command code").inner_text()
    page.reload()
    until("the same after a reload", steps, lambda told: told == {"guard"}, page)
    page.get_by_role("combobox", name="Reason", exact=True).fill("RateLimitd")
    page.get_by_role("combobox", name="Reason", exact=True).press("Enter")
    expect(page.locator("#decisions [role=alert]")).to_contain_text("did you mean RateLimited?")
    page.get_by_role("button", name="Clear").click()
    until("all again", steps, lambda told: "" in told, page)
    assert page.url.endswith("/console/"), page.url
    page.locator("#routes tbody th button").first.click()
    route = page.locator("#routes tbody th button").first.inner_text()
    routes = lambda: {row.locator("td").nth(2).inner_text() for row in rows.all()}
    until("one route", routes, lambda told: told == {route}, page)
    assert page.locator("#funnel .note").first.inner_text().startswith(route)
    # The browser tells of the filter that was refused, once for each of the two who asked.
    told = [text for text in seen.complaints if "status of 400" not in text]
    assert not told and len(seen.complaints) <= 4, seen.complaints
    page.get_by_role("button", name="Requests/s").click()
    expect(page.locator("#routes thead th").nth(1)).to_have_attribute("aria-sort", "descending")
    page.context.close()


def of_a_policy(browser):
    """The steps of one policy: what it asks for there, and the numbers of its routes; a route takes its place."""
    page, seen = open_page(browser)
    told = json.loads(fetch("/api/overview"))
    limited = next(it for it in told["policies"] if it["name"] == "limited")
    wanted = metrics()["limited/rule"]
    assert (limited["routes"], limited["requests"]) == (1, wanted["requests"]), (limited, wanted)
    policy = page.get_by_role("combobox", name="Policy", exact=True)
    policy.select_option("limited")
    assert page.url.endswith("/console/?policy=limited"), page.url
    for _ in range(2):
        expect(page.locator("#funnel .note").first).to_have_text("the route of limited, since the start")
        guard = page.locator("#funnel tbody tr").filter(has=page.get_by_role("button", name="guard", exact=True))
        expect(guard.locator("th")).to_contain_text("rateLimit")
        reached, refused = (number(cell.inner_text()) for cell in guard.locator("td").all()[:2])
        assert (reached, refused) == (wanted["requests"], wanted["refused"]), (reached, refused, wanted)
        expect(guard.locator("td").last).to_have_text("few")
        page.reload()
    route = page.locator("#routes tbody th button").first
    route.click()
    expect(page.locator("#funnel .note").first).to_have_text(f"{route.inner_text()}, since the start")
    expect(policy).to_have_value("")
    policy.select_option("limited")
    assert page.url.endswith("/console/?policy=limited"), page.url
    policy.select_option("")
    expect(page.locator("#funnel .note").first).to_have_text("all routes, since the start")
    seen.none()
    page.context.close()


def explained(browser):
    """A decision is told with its steps, its rule and the place of the rule."""
    page, seen = open_page(browser, address="?refused=true&step=guard")
    page.locator("#decisions tbody th button").first.click()
    expect(page.locator("#explain .verdict")).to_contain_text("Refused in guard as")
    id = urllib.parse.parse_qs(urllib.parse.urlsplit(page.url).query)["explain"][0]
    told = json.loads(fetch(f"/decisions/{id}"))
    expect(page.locator("#explain .verdict")).to_contain_text(told["foregate.reason"])
    rows = page.locator("#explain tbody tr")
    assert [row.locator("th").inner_text() for row in rows.all()] == [step["step"] for step in told["foregate.steps"]]
    refused = next(step for step in told["foregate.steps"] if step["verdict"] == "refused")
    row = page.locator("#explain tr.refused")
    expect(row).to_contain_text(f"{refused['file']}:{refused['line']}")
    expect(row).to_contain_text(refused["rule"])
    assert page.evaluate("document.activeElement.id") == "explain-title"
    page.get_by_role("button", name=f"Copy: foregate explain {id} --admin {ADMIN}").click()
    assert page.evaluate("navigator.clipboard.readText()") == f"foregate explain {id} --admin {ADMIN}"
    seen.none()
    field = page.get_by_role("textbox", name="Decision", exact=True)
    field.fill("00000000-0000-7000-8000-000000000000")
    field.press("Enter")
    expect(page.locator("#explain [role=alert]")).to_contain_text("This decision is not kept")
    page.go_back()
    expect(page.locator("#explain .verdict")).to_contain_text("Refused in guard as")
    page.context.close()


def accessible(browser):
    """axe finds nothing serious in light and dark, and no width cuts anything off."""
    with open(AXE, encoding="utf-8") as file:
        axe = file.read()
    for scheme in ("light", "dark"):
        for size in SIZES:
            tell(f"{scheme} {size}")
            # axe is no script of the page.
            page, _ = open_page(browser, scheme, size, "?refused=true", bypass_csp=True)
            page.locator("#decisions tbody th button").first.click()
            expect(page.locator("#explain .verdict")).to_be_visible()
            page.locator("summary").first.click()
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), size
            page.evaluate(axe)
            faults = page.evaluate("axe.run({ resultTypes: ['violations'] })")["violations"]
            serious = [fault for fault in faults if fault["impact"] in ("serious", "critical")]
            told = [(fault["id"], [node["html"] for node in fault["nodes"]][:3]) for fault in serious]
            assert not serious, (scheme, size, told)
            page.context.close()


def keyboard(browser):
    """Everything that can be used is reached with the Tab key, in the order in which it stands, and is seen to be."""
    page, _ = open_page(browser, address="?refused=true")
    page.get_by_role("button", name="Hold").click()
    page.locator("#decisions tbody th button").first.click()
    expect(page.locator("#explain .verdict")).to_be_visible()
    usable = (
        "[...document.querySelectorAll('a[href], button:not(:disabled), input, select, summary, [tabindex=\"0\"]')]"
        ".filter((it) => it.checkVisibility())"
    )
    page.evaluate(f"window.usable = {usable}; window.usable[0].focus()")
    wanted = page.evaluate("window.usable.length")
    reached = [0]
    for _ in range(wanted - 1):
        page.keyboard.press("Tab")
        place, outline = page.evaluate(
            "[window.usable.indexOf(document.activeElement), getComputedStyle(document.activeElement).outlineStyle]"
        )
        assert outline != "none", (place, reached)
        reached.append(place)
    assert reached == list(range(wanted)), reached
    page.context.close()


def refused_configuration(browser):
    page, seen = open_page(browser)
    pause("break")
    expect(page.locator("#faults-title")).to_contain_text("The last configuration was refused", timeout=PATIENCE)
    expect(page.locator(".faults pre")).to_contain_text("policies.yaml")
    seen.none()
    page.context.close()


def screenshot(browser):
    page, _ = open_page(browser, size=(1440, 1080), address="?refused=true")
    # Lines to look at; one connection has 100,000 requests, and the load is one.
    while page.locator("#requests tbody tr").count() < 6:
        tell("lines")
        page.wait_for_timeout(5_000)
    page.locator("#decisions tbody th button").first.click()
    expect(page.locator("#explain .verdict")).to_be_visible()
    page.evaluate("document.activeElement.blur()")
    page.wait_for_timeout(500)
    page.screenshot(path=SCREENSHOT, full_page=True)
    page.context.close()


with sync_playwright() as playwright:
    chromium = shutil.which("chromium")
    assert chromium, "chromium is not here; .ci/test installs it"
    browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
    under_load(browser)
    if SCREENSHOT:
        pause("screenshot")
        screenshot(browser)
    pause("quiet")
    for check in (numbers, filters, of_a_policy, explained, accessible, keyboard, refused_configuration):
        tell(check.__name__)
        check(browser)
    browser.close()
