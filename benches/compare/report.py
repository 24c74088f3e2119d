"""What a run of `peers.py` says: medians and marks, as Markdown, JSON and SVG."""

from __future__ import annotations

import html
import statistics

# Rounds that differ by more than this part of their median are no measurement.
SPREAD = 0.15
# Processors that others used while a round ran: their caches were not the proxy's alone.
OTHERS = 0.10
# Of a second, what the host of this virtual machine took away.
STEAL = 0.02
# Of its processor, what a proxy must have used to count as saturated: the kernel keeps a twentieth for others.
BUSY = 0.75

SATURATED = "Processor time a request, us"


class Cell:
    """The rounds of one proxy at one work: their median, and what makes it doubtful."""

    def __init__(self, rounds=(), reason=""):
        self.rounds = list(rounds)
        self.reason = reason  # why there are none

    @property
    def median(self):
        return statistics.median(one["value"] for one in self.rounds) if self.rounds else None

    def median_of(self, name):
        return statistics.median(one[name] for one in self.rounds) if self.rounds else None

    def marks(self):
        """`~` where rounds differ too much, `!` where the machine was busy with something else, `°` where the load had no more,
        `*` where there is one round, so that nothing tells how they differ."""
        if not self.rounds:
            return ""
        values = [one["value"] for one in self.rounds]
        wide = self.median and (max(values) - min(values)) / self.median > SPREAD
        others = statistics.median(one.get("others", 0.0) for one in self.rounds)
        stolen = statistics.median(one.get("steal", 0.0) for one in self.rounds)
        busy = statistics.median(one.get("busy", 1.0) for one in self.rounds)
        one = "*" if len(self.rounds) == 1 else ""
        return ("~" if wide else "") + ("!" if others > OTHERS or stolen > STEAL else "") + ("°" if busy < BUSY else "") + one

    def shown(self, digits=None):
        if not self.rounds:
            return "–"
        return f"{number(self.median, digits)}{self.marks()}"


def number(value, digits=None):
    """Three figures, as a person reads them."""
    if digits is None:
        digits = 0 if value >= 100 else 1 if value >= 10 else 2
    return f"{value:,.{digits}f}"


def ratio(cell, other):
    """Our median by another's, with the marks of both."""
    if not cell.rounds or not other.rounds or not other.median:
        return ""
    marks = "".join(mark for mark in "~!°*" if mark in cell.marks() + other.marks())
    return f"{cell.median / other.median:.2f}{marks}"


def table(title, rows, proxies, ratios=(), show=Cell.shown):
    """A table: a row for each work, a column for each proxy, and ours by some of them."""
    lines = [f"| {title} | {' | '.join(proxies.values())} | {' | '.join(f'to {proxies[name]}' for name in ratios)} |"]
    if not ratios:
        lines = [f"| {title} | {' | '.join(proxies.values())} |"]
    lines.append("|" + "---|" * (lines[0].count("|") - 1))
    for name, cells in rows:
        of = [show(cells.get(one, Cell())) for one in proxies]
        of += [ratio(cells["foregate"], cells.get(one, Cell())) if "foregate" in cells else "" for one in ratios]
        lines.append(f"| {name} | {' | '.join(of)} |")
    return "\n".join(lines)


def reasons(rows, proxies):
    """Why cells are empty: each reason once, with the works it holds for."""
    found = {}
    for name, cells in rows:
        for one, cell in cells.items():
            if cell.reason:
                found.setdefault((proxies.get(one, one), cell.reason), []).append(name)
    return "\n".join(f"- {proxy}: {reason} ({'; '.join(names)})" for (proxy, reason), names in found.items())


def latencies(cell):
    """Median, 99th and 99.9th percentile of a cell."""
    if not cell.rounds:
        return "–"
    return " / ".join(number(cell.median_of(name), 0) for name in ("p50", "p99", "p999")) + cell.marks()


def made(about):
    """How it was made, and what was not there, where that is known."""
    if command := about.get("command"):
        profiles = ", ".join(f"{title} of profile {profile or 'unknown'}" for title, profile in about.get("profiles", {}).items())
        yield f"`{command}`{f'; {profiles}' if profiles else ''}."
    if missing := about.get("missing"):
        yield f"Not there, and so not measured: {', '.join(missing)}."


def markdown(results, about):
    """Everything, one table for each mode."""
    proxies = results.proxies
    peers = [name for name in proxies if name != "foregate"] if "foregate" in proxies else []
    head = f"{about['date']}; {about['machine']}; {about['rounds']} rounds of {about['seconds']:g} s, interleaved; {about['versions']}."
    parts = [] if about.get("whole", True) else ["**The run was broken off: some of it is missing.**"]
    parts += [head, *made(about), f"`~`: rounds differ by more than {SPREAD:.0%} of their median. `!`: others used more than {OTHERS:.0%} of a processor "
              f"meanwhile, or the host took more than {STEAL:.0%}. `°`: the load kept the proxy less than {BUSY:.0%} busy. `*`: one round."]
    titles = {
        "saturated": (SATURATED, peers, Cell.shown),
        "open": (f"p50 / p99 / p99.9 at {about['rate']:g} requests a second, us", (), latencies),
        "handshakes": ("Processor time of a full handshake and one request, us", peers, Cell.shown),
        "idle": (f"KiB of an idle connection, of {about['connections']:,}", peers, Cell.shown),
        "start": ("Start to listening, ms", peers, Cell.shown),
        "resident": ("Resident at start, MiB", peers, Cell.shown),
        "size": ("Program, MiB as loaded", peers, Cell.shown),
    }
    for mode, (title, ratios, show) in titles.items():
        if rows := results.rows(mode):
            parts.append(table(title, rows, proxies, ratios, show))
            if why := reasons(rows, proxies):
                parts.append(why)
    return "\n\n".join(parts) + "\n"


COLORS = {"foregate": "#2f6feb", "envoy": "#b5548d", "nginx": "#3d9a5f", "haproxy": "#6a7fb0", "pingora": "#d08a2e", "hyper": "#8a8f98"}
ROW, BAR, LEFT, WIDTH, PAD = 15, 11, 110, 760, 70


def svg(rows, proxies, title, about):
    """Bars: a group for each work; the longest bar of a group has the whole width, as works differ by far."""
    body, y = [], 64
    for name, cells in rows:
        bars = [(one, cell) for one, cell in cells.items() if cell.rounds and one in proxies]
        if not bars:
            continue
        most = max(cell.median for _, cell in bars)
        body.append(f'<text class="work" x="12" y="{y + ROW - 4}">{html.escape(name)}</text>')
        y += ROW + 2
        for one, cell in bars:
            length = max(1.0, (WIDTH - LEFT - PAD) * cell.median / most)
            body.append(f'<text class="who" x="{LEFT - 8}" y="{y + ROW - 4}" text-anchor="end">{html.escape(proxies[one])}</text>')
            body.append(f'<rect x="{LEFT}" y="{y + 2}" width="{length:.1f}" height="{BAR}" rx="2" fill="{COLORS.get(one, "#888")}"/>')
            weight = " ours" if one == "foregate" else ""
            body.append(f'<text class="value{weight}" x="{LEFT + length + 6:.1f}" y="{y + ROW - 4}">{cell.shown()}</text>')
            y += ROW
        y += 12
    style = ("text{font:11px system-ui,sans-serif;fill:#1f2328}.title{font-size:15px;font-weight:600}.about,.who{fill:#59636e}"
             ".ours,.work{font-weight:700}@media(prefers-color-scheme:dark){text{fill:#e6edf3}.about,.who{fill:#9198a1}}")
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y + 8}" role="img" aria-label="{html.escape(title)}">'
            f"<style>{style}</style>"
            f'<text class="title" x="12" y="24">{html.escape(title)}</text>'
            f'<text class="about" x="12" y="44">{html.escape(about)}</text>'
            f"{''.join(body)}</svg>\n")


def placed(text, name, content):
    """A text with what stands between two marks in it replaced; an error where the marks are not there."""
    start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    before, found, rest = text.partition(start)
    _, also, after = rest.partition(end)
    if not found or not also:
        raise ValueError(f"the text has no `{start}` and `{end}`")
    return f"{before}{start}\n{content.strip()}\n{end}{after}"
