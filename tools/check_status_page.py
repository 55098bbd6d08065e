#!/usr/bin/env python3
"""Looks at the status page in a real, headless browser: what it shows is what /status says.

    tools/check_status_page.py                                  # made-up coordinators: needs a browser alone
    tools/check_status_page.py --program build/cpu/polystrate   # and a live one, two engines under load
    tools/check_status_page.py --program ... --picture docs/status_page.png

Ends with 77, "skipped", where no Chromium is installed (Debian: apt-get install chromium).
"""
import argparse
import contextlib
import json
import os
import pathlib
import signal
import sys
import time

from browser import Browser, find_browser
from live_cluster import MODEL, Clients, LiveCluster
from status_page_fakes import FakeCoordinator, engine, status

SKIPPED = 77
WIDTHS = [1280, 700, 390, 320]
RATE_WINDOW_S = 4  # as kWindow in status_page.js

# What came last of /status, at the moment at which the page shows it, and the tokens of every time.
KEEP_STATUS = """
const fetched = window.fetch;
window.fetch = async (...what) => {
  const response = await fetched(...what);
  const read = response.json.bind(response);
  response.json = async () => {
    window.seen = await read();
    (window.heard ??= []).push([window.seen.coordinator.time, window.seen.coordinator.tokens]);
    return window.seen;
  };
  return response;
};
"""

SHOWN = """(() => {
  const text = (root, name) => root.querySelector(`[data-is="${name}"]`).textContent;
  const texts = (root, names) => Object.fromEntries(names.map((name) => [name, text(root, name)]));
  return {
    seen: window.seen, heard: window.heard,
    total: texts(document.getElementById('total'), ['rate', 'streams', 'running', 'queued', 'blocks', 'carried', 'serving', 'failed']),
    notice: document.getElementById('notice').hidden ? '' : document.getElementById('notice').textContent,
    link: document.getElementById('link').textContent,
    engines: [...document.querySelectorAll('article')].map((card) => ({
      ...texts(card, ['target', 'what', 'state', 'rate', 'streams', 'running', 'queued', 'hits', 'blocks', 'summary']),
      share: Number.parseFloat(card.querySelector('[data-is=bar] i').style.width),
      curve: card.querySelector('.spark').lastElementChild.getAttribute('d'),
      stages: [...card.querySelectorAll('.stage')].map((stage) => ({
        ...texts(stage, ['name', 'facts']),
        cells: [...stage.querySelectorAll('.cell')].map((cell) =>
            [cell.firstChild.textContent, cell.querySelector('small').textContent, cell.style.getPropertyValue('--h')]),
        ranks: [...stage.querySelectorAll('.ranks li')].map((rank) => texts(rank, ['place', 'busy', 'bubble', 'doing'])),
      })),
    })),
  };
})()"""

# The least contrast (WCAG 2) of any text with what is behind it, and the text.
CONTRAST = """(() => {
  const channels = (color) => color.match(/[\\d.]+/g).map(Number);
  const luminance = (color) => channels(color).slice(0, 3).map((c) => c / 255)
      .map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
      .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  let worst = [99, ''];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode, element = node.parentElement;
    if (!node.textContent.trim() || !element.checkVisibility()) continue;
    let behind = element, dimmed = false;
    for (let e = element; e; e = e.parentElement) dimmed ||= getComputedStyle(e).opacity !== '1';
    while (behind && (channels(getComputedStyle(behind).backgroundColor)[3] ?? 1) === 0) behind = behind.parentElement;
    if (dimmed) continue;
    const [a, b] = [luminance(getComputedStyle(element).color), luminance(getComputedStyle(behind || document.body).backgroundColor)];
    const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (contrast < worst[0]) worst = [contrast, node.textContent];
  }
  return worst;
})()"""


def expect(condition, what) -> None:
    if not condition:
        raise AssertionError(what)


def expect_equal(shown, said, what: str) -> None:
    expect(shown == said, f"{what}: the page shows {shown!r}, /status says {said!r}")


def check_engine(shown: dict, said: dict) -> None:
    name = said["target"]
    expect_equal(shown["target"], name, "engine")
    expect(said["model"] in shown["what"], f"{name}: no model in {shown['what']!r}")
    expect(shown["state"].startswith("serving" if said["serving"] else "not serving"), f"{name}: {shown['state']}")
    expect(said["problem"] in shown["state"], f"{name}: no {said['problem']!r} in {shown['state']!r}")
    lost = said["times_lost"]
    expect_equal(f" · lost {lost:,} time" in shown["state"], lost > 0, f"{name}: times lost in {shown['state']!r}")
    for figure in ["streams", "running", "queued"]:
        expect_equal(shown[figure], f"{said[figure]:,}", f"{name}: {figure}")
    expect_equal(shown["blocks"], f"{said['used_blocks']:,} of {said['total_blocks']:,}", f"{name}: blocks")
    share = 100 * said["used_blocks"] / max(1, said["total_blocks"])
    expect(abs(shown["share"] - share) <= 0.1, f"{name}: a bar of {shown['share']} % for {share} %")
    expect_equal(len(shown["stages"]), len(said["stages"]), f"{name}: stages")
    for i, (stage, layout) in enumerate(zip(shown["stages"], said["stages"])):
        check_stage(f"{name}, stage {i}", stage, layout)


def check_stage(name: str, shown: dict, said: dict) -> None:
    expect_equal(shown["name"], f"Stage {said['stage']} · layers {said['first_layer']}–{said['end_layer'] - 1}", name)
    owner_of = {layer: group["owner"] for group in said["kv_groups"] for layer in [group["owner"], *group["readers"]]}
    layers = range(said["first_layer"], said["end_layer"])
    expect_equal([cell[:2] for cell in shown["cells"]],
                 [[str(layer), "KV" if owner_of[layer] == layer else f"←{owner_of[layer]}"] for layer in layers], f"{name}: layers")
    hue_of = {}
    for layer, (_, _, hue) in zip(layers, shown["cells"]):
        expect_equal(hue_of.setdefault(owner_of[layer], hue), hue, f"{name}: layer {layer} has another hue than its owner")
        shared = list(owner_of.values()).count(owner_of[layer]) > 1
        expect((hue != "") == shared, f"{name}: hue {hue!r} for layer {layer}")
    expect_equal([rank["place"] for rank in shown["ranks"]],
                 [f"rank {rank['rank']} · {rank['host']}:{rank['pid']}" for rank in said["ranks"]], f"{name}: ranks")
    expect_equal([rank["doing"] for rank in shown["ranks"]], [rank["doing"] for rank in said["ranks"]], f"{name}: ranks")


def check_shown(browser: Browser) -> dict:
    """That the page shows the status it has read last; returns what it shows, with that as `seen`."""
    shown = browser.evaluate(SHOWN)
    said = shown["seen"]
    serving = [e for e in said["engines"] if e["serving"]]
    expect_equal(shown["total"]["serving"], f"{len(serving)} of {len(said['engines'])}", "engines serving")
    for figure in ["streams", "carried"]:
        expect_equal(shown["total"][figure], f"{said['coordinator'][figure]:,}", figure)
    expect_equal(shown["total"]["running"], f"{sum(e['running'] for e in serving):,}", "running")
    expect_equal(shown["total"]["queued"], f"{sum(e['queued'] for e in serving):,} queued", "queued")
    expect_equal(shown["notice"] == "", len(serving) == len(said["engines"]) > 0, "no notice")
    expect_equal(len(shown["engines"]), len(said["engines"]), "number of engines")
    for card, told in zip(shown["engines"], said["engines"]):
        check_engine(card, told)
    return shown


def check_looks(browser: Browser) -> None:
    """Every width, both schemes: nothing sticks out, and every text can be read."""
    for width in WIDTHS:
        for dark in [False, True]:
            browser.resize(width, 900, dark)
            expect(browser.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"wider than {width} px")
            contrast, text = browser.evaluate(CONTRAST)
            expect(contrast >= 4.5, f"contrast {contrast:.2f} of {text!r}, {'dark' if dark else 'light'}, {width} px")
    browser.resize(1280, 900)


@contextlib.contextmanager
def opened(url: str, allowed_faults: str = ""):
    with Browser(find_browser()) as browser:
        browser.before_load(KEEP_STATUS)
        browser.open(url)
        yield browser
        faults = [fault for fault in browser.faults if not allowed_faults or allowed_faults not in fault]
        expect(not faults, f"the browser complains: {faults}")


LOADED = "!document.getElementById('main').hidden"


def case_no_engine() -> None:
    with FakeCoordinator() as fake, opened(fake.url) as browser:
        browser.wait_for(LOADED)
        expect(check_shown(browser)["notice"].startswith("No engine"), "no notice")
        check_looks(browser)


def case_many_engines_of_many_layers() -> None:
    kv_source = [i - i % 4 for i in range(100)]

    def make(seconds):
        return status([engine(f"host-{i:02}:50051", kv_source, [0, 24, 48, 76, 100], seconds) for i in range(16)], seconds)
    with FakeCoordinator(make) as fake, opened(fake.url) as browser:
        browser.wait_for(LOADED)
        check_shown(browser)
        browser.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
        check_looks(browser)
        spent = browser.evaluate("(() => { const begin = performance.now(); show(window.seen); return performance.now() - begin; })()")
        expect(spent < 100, f"{spent:.0f} ms to show 16 engines")
        print(f"    {spent:.1f} ms to show them once more")


def case_rates() -> None:
    kv_source = list(range(20)) + [18 if i % 5 < 4 else 19 for i in range(15)]  # readers of two owners in turn
    with FakeCoordinator(lambda s: status([engine("a:1", kv_source, [0, 35], s)], s)) as fake, opened(fake.url) as browser:
        browser.wait_for("document.querySelector('.rank [data-is=busy]')?.textContent === '75 % busy'")
        shown = check_shown(browser)
        expect_equal(shown["total"]["rate"], "200", "tokens per second")
        expect_equal(shown["engines"][0]["rate"], "100", "tokens per second of the engine")
        expect_equal(shown["engines"][0]["hits"], "25 %", "prefix hits")
        for rank in shown["engines"][0]["stages"][0]["ranks"]:
            expect_equal((rank["busy"], rank["bubble"]), ("75 % busy", "25 % bubble"), "rank")
        # Another process at the same place counts from 0 again, and that is no negative rate.
        fake.make = lambda s: status([engine("a:1", kv_source, [0, 35], s, tokens={"generation": 100 * s - 300})], s)
        rates = set()
        for _ in range(20):
            rates.add(check_shown(browser)["engines"][0]["rate"])
            time.sleep(0.25)
        expect_equal(rates, {"100", "–"}, "tokens per second over a restart")


def case_hostile_engine() -> None:
    evil = "</script><img src=x onerror=\"document.title='taken'\"><b>\u202e" + "x" * 300

    def make(seconds):
        bad = engine(evil, [0, 0], [0, 2], seconds, model=evil, problem=evil, serving=False)
        bad["stages"][0]["ranks"][0] |= {"doing": evil, "host": evil}
        silent = engine("silent:1", [], [], seconds, stages=[], tokens=None, time=None, serving=False, problem="never answered")
        return status([bad, silent], seconds)
    with FakeCoordinator(make) as fake, opened(fake.url) as browser:
        browser.wait_for(LOADED)
        check_shown(browser)
        expect_equal(browser.evaluate("document.querySelectorAll('img, b').length"), 0, "elements of an engine's making")
        expect("taken" not in browser.evaluate("document.title"), "an engine's script ran")
        check_looks(browser)


def case_api_key() -> None:
    fake = FakeCoordinator(lambda s: status([engine("a:1", [0, 0], [0, 2], s)], s), key="right")
    with fake, opened(fake.url, allowed_faults="401") as browser:
        asked = "!document.getElementById('key_form').hidden"
        enter = "document.getElementById('key').value = '%s'; document.querySelector('form button').click()"
        browser.wait_for(asked)
        check_looks(browser)
        browser.evaluate(enter % "wrong")
        browser.wait_for(f"{asked} && document.getElementById('key_note').textContent.includes('not accepted')")
        browser.evaluate(enter % "right")
        browser.wait_for(f"{LOADED} && document.getElementById('key_form').hidden")
        check_shown(browser)
        browser.open(fake.url)
        browser.wait_for(LOADED)  # the tab remembers it


def case_lost_connection() -> None:
    fake = FakeCoordinator(lambda s: status([engine("a:1", [0, 0], [0, 2], s)], s))
    link = "document.getElementById('link').textContent"
    with fake, opened(fake.url, allowed_faults="503") as browser:
        browser.wait_for(f"{link} === 'live'")
        fake.broken = True
        browser.wait_for(f"{link}.startsWith('connection lost')", 15)
        expect(browser.evaluate("getComputedStyle(document.querySelector('.live')).opacity < 1"), "stale figures are not dimmed")
        time.sleep(3)
        fake.broken = False
        browser.wait_for(f"{link} === 'live'", 30)
        check_shown(browser)


def number(text: str) -> float:
    return float(text.replace(",", "").replace("–", "nan"))


def check_against_model(shown: dict) -> None:
    """The strips against config.json and the papers' rule."""
    config = json.loads((MODEL / "config.json").read_text())
    layers, caches = config["num_hidden_layers"], config["num_key_value_layers"]
    owners = [0] + [int((i + 1) * (layers / caches)) for i in range(caches - 1)]
    expected = [[str(layer), "KV" if layer in owners else f"←{max(o for o in owners if o <= layer)}"] for layer in range(layers)]
    for card in shown["engines"]:
        cells = [cell[:2] for stage in card["stages"] for cell in stage["cells"]]
        expect_equal(cells, expected, f"{card['target']}: layers, by the model's configuration")
        expect_equal(len(card["stages"]), 2, f"{card['target']}: stages")


def check_under_load(browser: Browser, cluster: LiveCluster) -> None:
    rates = "[...document.querySelectorAll('[data-is=rate]')].map((x) => x.textContent)"
    browser.wait_for(f"{rates}.length === 3 && {rates}.every((x) => x !== '–' && x !== '0')")
    shown = check_shown(browser)
    check_against_model(shown)
    expect(all(card["curve"] for card in shown["engines"]), "no curve")
    time.sleep(6)
    later = check_shown(browser)
    last, tokens = later["heard"][-1]
    first, base = next((h for h in later["heard"][:-1] if h[0] >= last - RATE_WINDOW_S), later["heard"][-2])
    rate = (tokens - base) / (last - first)
    print(f"    {later['total']['rate']} tokens/s on the page, {rate:.1f} counted; "
          + ", ".join(f"{card['rate']} of {card['target']}" for card in later["engines"]))
    expect(abs(number(later["total"]["rate"]) - rate) <= 1, f"{later['total']['rate']} tokens/s, counted {rate:.1f}")
    expect(later["seen"]["coordinator"]["tokens"] > shown["seen"]["coordinator"]["tokens"], "the page stands still")
    expect(later["seen"]["coordinator"]["time"] > cluster.status()["coordinator"]["time"] - 15, "the page is old")
    for card in later["engines"]:
        expect(number(card["blocks"].split()[0]) > 0 and number(card["running"]) > 0, f"{card['target']} is idle")
        expect(all(rank["busy"] not in ("– busy", "0 % busy") for stage in card["stages"] for rank in stage["ranks"]),
               f"{card['target']}: ranks that are not busy")


def check_engine_killed(browser: Browser, cluster: LiveCluster, clients: Clients) -> None:
    target = cluster.engines[1]
    told = {engine["target"]: engine for engine in cluster.status()["engines"]}
    os.kill(told[target]["stages"][1]["ranks"][0]["pid"], signal.SIGKILL)
    took = browser.wait_for("document.querySelectorAll('article[data-serving=no]').length === 1", 15)
    shown = check_shown(browser)
    print(f"    {took:.1f} s after the kill the page says: {shown['notice']}")
    expect(target in shown["notice"], shown["notice"])
    browser.wait_for("Number(document.querySelector('#total [data-is=carried]').textContent) > 0", 30)
    check_looks(browser)
    cluster.start_engine(target)
    took = browser.wait_for("document.querySelectorAll('article[data-serving=yes]').length === 2")
    print(f"    {took:.1f} s after a new start it serves again; {check_shown(browser)['total']['carried']} requests were carried over")
    expect(not clients.failures, f"clients saw: {clients.failures[:3]}")


def check_coordinator_killed(browser: Browser, cluster: LiveCluster) -> None:
    link = "document.getElementById('link').textContent"
    cluster.kill_coordinator()
    browser.wait_for(f"{link}.startsWith('connection lost')", 15)
    cluster.start_coordinator()
    browser.wait_for(f"{link} === 'live' && document.querySelectorAll('article[data-serving=yes]').length === 2")
    check_shown(browser)


def take_picture(browser: Browser, path: pathlib.Path) -> None:
    time.sleep(125)  # until the curves are whole
    browser.resize(1280, 400)
    browser.resize(1280, browser.evaluate("document.documentElement.scrollHeight"))
    time.sleep(2)
    browser.screenshot(path)
    expect(path.stat().st_size < 300_000, f"{path} has {path.stat().st_size} bytes")


def live(program: pathlib.Path, picture: pathlib.Path | None) -> None:
    with LiveCluster(program) as cluster:
        cluster.wait_until_all_serve()
        with opened(cluster.url, allowed_faults="ERR_") as browser:
            with Clients(cluster.url, number=24) as clients:
                check_under_load(browser, cluster)
                check_looks(browser)
                if picture:
                    take_picture(browser, picture)
                check_engine_killed(browser, cluster, clients)
            expect(clients.done > 0 and not clients.failures, f"{clients.done} done, then {clients.failures[:3]}")
            check_coordinator_killed(browser, cluster)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", type=pathlib.Path, help="polystrate, to look at a live coordinator too")
    parser.add_argument("--picture", type=pathlib.Path, help="a PNG of that one")
    flags = parser.parse_args()
    if find_browser() is None:
        print("skipped: status_page (no chromium or chrome is installed)")
        return SKIPPED
    cases = [case_no_engine, case_many_engines_of_many_layers, case_rates, case_hostile_engine, case_api_key,
             case_lost_connection]
    for case in cases:
        begin = time.monotonic()
        case()
        print(f"ok  {case.__name__[5:].replace('_', ' ')} ({time.monotonic() - begin:.1f} s)", flush=True)
    if flags.program:
        begin = time.monotonic()
        live(flags.program, flags.picture)
        print(f"ok  live ({time.monotonic() - begin:.1f} s)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
