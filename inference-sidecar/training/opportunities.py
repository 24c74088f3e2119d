"""Salesforce Opportunity records with outcomes, from one simulated leadforge world.

An opportunity is seen once, on a random day of its first four weeks, while it is open; the outcome is whether it is won
within the next 45 days. Its stage is left out: leadforge knows only the last one, which tells the outcome.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from leadforge.api import Generator

import dates
import leads
import splits
from oracle import NOW

LAST_SNAPSHOT_DAY = 27
OUTCOME_DAYS = 45
FIELD_ABSENT = 0.06


@dataclass(frozen=True)
class Opportunity:
    """A record as the CRM would send it, seen at NOW, and what became of it."""

    account: str
    complete: dict[str, Any]
    record: dict[str, Any]
    won: bool

    @property
    def split(self) -> str:
        """By account."""
        return splits.of_three(self.account)


def simulate(seed: int) -> list[Opportunity]:
    world = Generator.from_recipe(
        leads.RECIPE,
        seed=seed,
        exposure_mode="research_instructor",
        difficulty=leads.DIFFICULTY,
        n_accounts=leads.ACCOUNTS,
        n_contacts=leads.CONTACTS,
        n_leads=leads.LEADS,
    ).generate()
    events, people = world.simulation_result, world.population
    rng = np.random.default_rng(seed)
    source = leads.table(events.leads).set_index("lead_id")[["account_id", "lead_source", "lead_created_at"]]
    seen = observed(leads.table(events.opportunities).join(source, on="lead_id"), rng).set_index("lead_id")
    seen = seen.join(leads.firmographics(leads.table(people.accounts), rng), on="account_id")
    seen = seen.join(
        leads.engagement(
            seen, leads.table(events.touches), leads.table(events.sessions), leads.table(events.sales_activities)
        )
    )
    return [opportunity(row, rng) for row in seen.to_dict("records")]


def observed(seen: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """Open on their snapshot day, with the days left in the simulation; `day` counts from the creation of the lead."""
    began = pd.to_datetime(seen["lead_created_at"])
    opened = (pd.to_datetime(seen["created_at"]) - began).dt.days
    closed = (pd.to_datetime(seen["closed_at"]) - began).dt.days
    seen["created"] = began
    seen["age"] = rng.integers(0, LAST_SNAPSHOT_DAY + 1, len(seen))
    seen["day"] = opened + seen["age"]
    within = (closed > seen["day"]) & (closed <= seen["day"] + OUTCOME_DAYS)
    seen["won"] = within & (seen["close_outcome"] == "closed_won")
    return seen[~(closed <= seen["day"]) & (seen["day"] + OUTCOME_DAYS < 90)]


def opportunity(row: Mapping[str, Any], rng: np.random.Generator) -> Opportunity:
    complete: dict[str, Any] = {
        "Amount": int(row["estimated_acv"]),
        "LeadSource": leads.SOURCE[row["lead_source"]],
        "CreatedDate": moment(row["age"], rng),
        "Account": {
            "Industry": row["Industry"],
            "AnnualRevenue": int(row["AnnualRevenue"]),
            "NumberOfEmployees": int(row["NumberOfEmployees"]),
        },
        "Lead_Created__c": moment(row["day"], rng)[:10],
        "Website_Visits__c": int(row["Website_Visits__c"]),
        "Pricing_Page_Views__c": int(row["Pricing_Page_Views__c"]),
        "Email_Opens_30d__c": int(row["Email_Opens_30d__c"]),
        "Webinars_Attended__c": int(row["Webinars_Attended__c"]),
        "Touches_7d__c": int(row["Touches_7d__c"]),
        "Sales_Activities__c": int(row["Sales_Activities__c"]),
    }
    if not np.isnan(row["Days_Since_Last_Activity__c"]):
        complete["LastActivityDate"] = moment(row["Days_Since_Last_Activity__c"], rng)[:10]
    record = {name: value for name, value in complete.items() if rng.random() >= FIELD_ABSENT}
    return Opportunity(row["account_id"], complete, record, bool(row["won"]))


def moment(ago: float, rng: np.random.Generator) -> str:
    """That many days before NOW, at an hour of the day, as Salesforce writes it."""
    parsed = dates.parse(NOW)
    assert parsed is not None
    seconds = parsed.seconds - int(ago) * 86_400 - int(rng.integers(0, 43_200))
    return str(np.datetime_as_string(np.datetime64(seconds, "s"))) + ".000+0000"
