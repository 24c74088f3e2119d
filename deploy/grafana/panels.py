"""The words that dashboards are written in: panels, rows, variables, links."""

import dataclasses
import itertools

# Dashboards by name; the name is the file and, behind `foregate-`, the uid.
TITLES = {
    "traffic": "Traffic and added latency",
    "security": "Security",
    "limits": "Limits",
    "models": "Models and drift",
    "upstreams": "Upstreams",
    "fleet": "Configuration and fleet",
}
# Where links to runbooks lead, unless the one who makes the dashboards says otherwise: compose.yaml has Grafana serve them.
RUNBOOKS = "/public/foregate/runbooks"

# What the variables choose, for series of a process, of a route, and of requests.
PROCESS = 'job=~"$job",instance=~"$instance"'
ROUTE = PROCESS + ',route=~"$route"'
REQUEST = PROCESS + ',http_route=~"$route"'
WINDOW = "[$__rate_interval]"

_SOURCE = {"type": "prometheus", "uid": "${datasource}"}
_COLUMNS = 24
_COLORS = ("green", "yellow", "red")
GOOD, BAD = _COLORS[0], _COLORS[-1]
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclasses.dataclass(frozen=True)
class Panel:
    """`more` is what its kind adds to the panel, `queries` are pairs of expression and legend."""

    kind: str
    title: str
    description: str
    unit: str
    queries: tuple
    width: int
    height: int
    thresholds: tuple = ()
    # The worst is below the first threshold, not above the last.
    falling: bool = False
    runbook: str = ""
    exemplars: bool = False
    instant: bool = False
    format: str = "time_series"
    options: dict = dataclasses.field(default_factory=dict)
    custom: dict = dataclasses.field(default_factory=dict)
    more: dict = dataclasses.field(default_factory=dict)
    bounds: tuple = (0, None)


def rate(metric, selector=PROCESS, by=""):
    """How often a counter counts in a second."""
    return f"sum{f' by ({by})' if by else ''} (rate({metric}{{{selector}}}{WINDOW}))"


def either(metric, selectors, by=""):
    """The same of what one of several selectors chooses; what several choose counts once."""
    return f"sum{f' by ({by})' if by else ''} ({' or '.join(f'rate({metric}{{{selector}}}{WINDOW})' for selector in selectors)})"


def total(metric, selector=PROCESS, by=""):
    return f"sum{f' by ({by})' if by else ''} ({metric}{{{selector}}})"


def quantile(share, histogram, selector=PROCESS, by=""):
    by = f"le, {by}" if by else "le"
    return f"histogram_quantile({share}, sum by ({by}) (rate({histogram}_bucket{{{selector}}}{WINDOW})))"


def shares(part, whole):
    """Parts of wholes by the same labels, where what never happened has no series."""
    return f"({part} or 0 * {whole}) / ({whole} > 0)"


def share(part, whole):
    """A part of a whole; 0 where there is no whole."""
    return always(shares(part, whole))


def always(expression):
    """0 where nothing of it was ever seen; may be part of a sum."""
    return f"({expression} or vector(0))"


def stat(title, description, unit, expression, thresholds=(), runbook="", falling=False, width=4, words=None):
    """One number; `words` stand for numbers."""
    options = {
        "colorMode": "background" if thresholds else "none",
        "graphMode": "area",
        "justifyMode": "auto",
        "orientation": "auto",
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "textMode": "value",
    }
    more = {"mappings": [{"type": "value", "options": {key: {"text": word} for key, word in words.items()}}]} if words else {}
    return Panel("stat", title, description, unit, ((expression, title),), width, 4, thresholds, falling, runbook, options=options, more=more)


def lines(title, description, unit, *queries, width=12, thresholds=(), falling=False, runbook="", exemplars=False, stacked=False, bounds=(0, None)):
    """Numbers over time."""
    custom = {
        "drawStyle": "line",
        "fillOpacity": 30 if stacked else 8,
        "lineWidth": 1,
        "showPoints": "never",
        "spanNulls": False,
        "stacking": {"mode": "normal" if stacked else "none", "group": "A"},
        "thresholdsStyle": {"mode": "dashed" if thresholds else "off"},
    }
    options = {
        "legend": {"displayMode": "table", "placement": "bottom", "calcs": ["lastNotNull", "max"], "showLegend": True},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
    return Panel("timeseries", title, description, unit, queries, width, 8, thresholds, falling, runbook, exemplars, options=options, custom=custom, bounds=bounds)


def heatmap(title, description, unit, histogram, selector, width=12, exemplars=False):
    """Where the observations of a histogram lie."""
    query = f"sum by (le) (rate({histogram}_bucket{{{selector}}}{WINDOW}))"
    options = {
        "calculate": False,
        "cellGap": 1,
        "color": {"mode": "scheme", "scheme": "Oranges", "steps": 64, "exponent": 0.5},
        "exemplars": {"color": "rgba(255,0,255,0.7)"},
        "legend": {"show": True},
        "tooltip": {"mode": "single", "yHistogram": True},
        "yAxis": {"unit": unit, "axisPlacement": "left"},
    }
    return Panel("heatmap", title, description, unit, ((query, "{{le}}"),), width, 8, exemplars=exemplars, format="heatmap", options=options)


def states(title, description, expression, legend, words, width=12, runbook=""):
    """What holds when, as bands; `words` stand for numbers, each with GOOD or BAD."""
    mappings = {key: {"text": word, "color": color} for key, (word, color) in words.items()}
    options = {"mergeValues": True, "rowHeight": 0.8, "showValue": "auto", "legend": {"displayMode": "list", "placement": "bottom", "showLegend": False}, "tooltip": {"mode": "single", "sort": "none"}}
    return Panel(
        "state-timeline", title, description, "none", ((expression, legend),), width, 8, runbook=runbook, options=options,
        custom={"fillOpacity": 70, "lineWidth": 0}, more={"mappings": [{"type": "value", "options": mappings}]},
    )


def table(title, description, key, columns, width=24, runbook=""):
    """One line for each value of the labels `key`; columns are title, expression and unit, the first orders the lines."""
    # Grafana tells the values of several queries apart by their letters, and gives that of one none.
    names = ["Value"] if len(columns) == 1 else [f"Value #{letter}" for letter in _LETTERS]
    overrides = [
        {"matcher": {"id": "byName", "options": value}, "properties": [{"id": "displayName", "value": name}, {"id": "unit", "value": unit}]}
        for value, (name, _, unit) in zip(names, columns)
    ]
    organize = {"excludeByName": {"Time": True, "__name__": True}, "indexByName": {label: at for at, label in enumerate(key)}}
    return Panel(
        "table", title, description, "none", tuple((expression, name) for name, expression, _ in columns), width, 8, runbook=runbook,
        instant=True, format="table", custom={"align": "auto", "filterable": True},
        options={"showHeader": True, "cellHeight": "sm", "sortBy": [{"displayName": columns[0][0], "desc": True}]},
        more={"overrides": overrides, "transformations": [{"id": "merge", "options": {}}, {"id": "organize", "options": organize}]},
    )


def _thresholds(panel):
    colors = reversed(_COLORS[: len(panel.thresholds) + 1]) if panel.falling else _COLORS
    if len(panel.thresholds) == 1:
        colors = ("red", "green") if panel.falling else ("green", "red")
    return {"mode": "absolute", "steps": [{"color": color, "value": value} for color, value in zip(colors, (None, *panel.thresholds))]}


def _panel(panel, number, place):
    more = dict(panel.more)
    low, high = panel.bounds
    defaults = {
        "unit": panel.unit,
        "custom": panel.custom,
        "mappings": more.pop("mappings", []),
        "thresholds": _thresholds(panel),
        "color": {"mode": "thresholds" if panel.kind == "stat" else "palette-classic"},
        "noValue": "never seen",
        **({} if low is None else {"min": low}),
        **({} if high is None else {"max": high}),
    }
    targets = [
        {
            "refId": letter,
            "datasource": _SOURCE,
            "expr": expression,
            "legendFormat": legend,
            "editorMode": "code",
            "format": panel.format,
            "instant": panel.instant,
            "range": not panel.instant,
            "exemplar": panel.exemplars,
        }
        for letter, (expression, legend) in zip(_LETTERS, panel.queries)
    ]
    links = [{"title": f"Runbook: {panel.runbook}", "url": f"${{runbooks}}/{panel.runbook}.md", "targetBlank": True}] if panel.runbook else []
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": _SOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": defaults, "overrides": more.pop("overrides", [])},
        "options": panel.options,
        "targets": targets,
        "links": links,
        **more,
    }


def _place(rows):
    """Numbers all panels and lays them out in lines, row after row."""
    numbers, y, placed = itertools.count(1), 0, []
    for title, panels in rows:
        placed.append({"id": next(numbers), "type": "row", "title": title, "collapsed": False, "panels": [], "gridPos": {"x": 0, "y": y, "w": _COLUMNS, "h": 1}})
        y, x, height = y + 1, 0, 0
        for panel in panels:
            if x + panel.width > _COLUMNS:
                y, x, height = y + height, 0, 0
            placed.append(_panel(panel, next(numbers), {"x": x, "y": y, "w": panel.width, "h": panel.height}))
            x, height = x + panel.width, max(height, panel.height)
        y += height
    return placed


def _variable(name, label, query, hide=0):
    return {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": _SOURCE,
        "definition": query,
        "query": {"query": query, "refId": name},
        "refresh": 2,
        "sort": 1,
        "includeAll": True,
        "allValue": ".*",
        "multi": True,
        "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
        "hide": hide,
    }


def _variables(runbooks):
    jobs = "label_values(foregate_build_info, job)"
    instances = 'label_values(foregate_build_info{job=~"$job"}, instance)'
    routes = f"label_values(http_server_request_duration_seconds_count{{{PROCESS}}}, http_route)"
    return [
        {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus", "current": {}, "hide": 0, "refresh": 1},
        _variable("job", "Job", jobs),
        _variable("instance", "Instance", instances),
        _variable("route", "Route", routes),
        {"name": "runbooks", "type": "constant", "query": runbooks, "hide": 2, "current": {"text": runbooks, "value": runbooks}},
    ]


def _links(name):
    kept = {"type": "link", "includeVars": True, "keepTime": True, "icon": "dashboard", "targetBlank": False, "asDropdown": False, "tags": []}
    return [{**kept, "title": title, "url": f"/d/foregate-{other}", "tooltip": title} for other, title in TITLES.items() if other != name]


def _annotations():
    published = f"changes(foregate_config_last_success_timestamp_seconds{{{PROCESS}}}{WINDOW}) > 0"
    firing = 'ALERTS{alertname=~"Foregate.*",alertstate="firing"}'
    shape = lambda name, color, query, text: {"name": name, "datasource": _SOURCE, "enable": True, "hide": False, "iconColor": color, "expr": query, "titleFormat": text, "step": "30s"}
    return {
        "list": [
            shape("Configuration published", "blue", published, "published by {{instance}}"),
            shape("Alerts", "red", firing, "{{alertname}}"),
        ]
    }


def dashboard(name, description, rows, runbooks=RUNBOOKS):
    """The JSON model of a dashboard; rows are pairs of title and panels."""
    return {
        "uid": f"foregate-{name}",
        "title": f"Foregate: {TITLES[name]}",
        "description": description,
        "tags": ["foregate"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "timezone": "browser",
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "timepicker": {},
        "links": _links(name),
        "annotations": _annotations(),
        "templating": {"list": _variables(runbooks)},
        "panels": _place(rows),
    }
