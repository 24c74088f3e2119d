"""The rules as they are deployed, but for times: windows and waits of seconds, so that alerts fire and clear on a stage."""

import re

import yaml

from support import DEPLOY

# Ten scrapes of the stage, of which a busy machine may lose some.
WINDOW, WAIT = "5s", "1s"
# How far back it is looked for what was there: a shorter look back would forget it, not come sooner.
_LOOK_BACK = r"count_over_time\([^()]*\)"
# Names of what is recorded; the deployed rules record beside these.
_RECORDED = r"\bjob\w*:\w+:\w+\b"


def expression(deployed):
    """The same expression over short windows."""
    short = re.sub(rf"({_LOOK_BACK})|\[\d+[smhd]\]", lambda found: found[1] or f"[{WINDOW}]", deployed)
    short = re.sub(r"\boffset \d+[smhd]\b", f"offset {WINDOW}", short)
    return re.sub(_RECORDED, r"\g<0>:short", short)


def shortened():
    """One file of rules."""
    groups = []
    for name in ("recording", "alerts"):
        for group in yaml.safe_load((DEPLOY / "prometheus" / f"{name}.yaml").read_text())["groups"]:
            groups.append({"name": group["name"], "rules": [_rule(rule) for rule in group["rules"]]})
    return yaml.safe_dump({"groups": groups})


def _rule(deployed):
    short = {**deployed, "expr": expression(deployed["expr"])}
    if "record" in deployed:
        return {**short, "record": f"{deployed['record']}:short"}
    return {**short, "for": WAIT if int(deployed["for"][:-1]) else deployed["for"]}
