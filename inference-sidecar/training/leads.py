"""Salesforce Lead records with outcomes, from one simulated leadforge world.

A lead is seen once, at a random day of its first four weeks, as a CRM record would show it then; the
outcome is whether it is won within the next 60 days. Only events up to that day enter the record, leads
already won by then are left out, and no aggregate of leadforge is used (`total_touches_all` leaks).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from leadforge.api import Generator

import splits

RECIPE = "b2b_saas_procurement_v1"
DIFFICULTY = "intro"
ACCOUNTS, CONTACTS, LEADS = 9_000, 18_000, 30_000
LAST_SNAPSHOT_DAY = 29  # the simulation ends on day 89, and the outcome needs 60 days after the snapshot
OUTCOME_DAYS = 60

INDUSTRY = {
    "manufacturing": "Manufacturing",
    "logistics": "Transportation",
    "professional_services": "Consulting",
    "healthcare_non_clinical": "Healthcare",
}
SOURCE = {"inbound_marketing": "Web", "sdr_outbound": "Outbound", "partner_referral": "Partner Referral"}
COUNTRY = {"US": "US", "UK": "GB"}
SENIORITY = {"individual_contributor": 0, "manager": 1, "director": 2, "vp": 3, "c_suite": 4}
REVENUE = {
    "$1M-$10M": (1e6, 10e6),
    "$10M-$50M": (10e6, 50e6),
    "$50M-$200M": (50e6, 200e6),
    "$200M+": (200e6, 2e9),
}
EMPLOYEES = {"200-499": (200, 499), "500-999": (500, 999), "1000-1999": (1000, 1999), "2000+": (2000, 10_000)}

# A CRM seldom holds every field: whole groups are absent where a tool is not connected, single fields anywhere.
GROUPS = (
    ("Page_Views_30d__c", "Pricing_Page_Views__c", "Session_Minutes__c", "Viewed_Demo__c"),
    ("Content_Downloads__c", "Webinars_Attended__c", "Touches_7d__c"),
    ("Sales_Activities__c",),
    ("Lead_Age_Days__c",),
)
GROUP_ABSENT = 0.2
FIELD_ABSENT = 0.05
UNLISTED = 0.04
UNLISTED_VALUES = {
    "Title": ("Consultant", "Administrator", "Team Lead"),
    "Industry": ("Education", "Retail", "Energy"),
    "LeadSource": ("Other", "Trade Show"),
    "Country": ("DE", "FR", "CA"),
}


@dataclass(frozen=True)
class Lead:
    """A record as the CRM would send it, and what became of it."""

    account: str
    complete: dict[str, Any]
    record: dict[str, Any]
    won: bool

    @property
    def split(self) -> str:
        """By account."""
        return splits.of_three(self.account)


def simulate(seed: int, titles: Mapping[str, float]) -> list[Lead]:
    """`titles` maps a job title to its seniority level; titles are drawn from it."""
    world = Generator.from_recipe(
        RECIPE,
        seed=seed,
        exposure_mode="research_instructor",
        difficulty=DIFFICULTY,
        n_accounts=ACCOUNTS,
        n_contacts=CONTACTS,
        n_leads=LEADS,
    ).generate()
    events, people = world.simulation_result, world.population
    rng = np.random.default_rng(seed)

    leads = at_risk(table(events.leads), rng)
    leads = leads.join(firmographics(table(people.accounts), rng), on="account_id")
    leads = leads.join(titles_of(table(people.contacts), titles, rng), on="contact_id")
    leads = leads.join(engagement(leads, table(events.touches), table(events.sessions), table(events.sales_activities)))
    return [lead(row, rng) for row in leads.to_dict("records")]


def at_risk(leads: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """Leads not yet won at their snapshot day, with `day` and the outcome `won`."""
    leads = leads.set_index("lead_id")
    leads["created"] = pd.to_datetime(leads["lead_created_at"])
    leads["day"] = rng.integers(0, LAST_SNAPSHOT_DAY + 1, len(leads))
    won_on = (pd.to_datetime(leads["conversion_timestamp"]) - leads["created"]).dt.days
    leads["won"] = (won_on > leads["day"]) & (won_on <= leads["day"] + OUTCOME_DAYS)
    return leads[~(won_on <= leads["day"])]


def firmographics(accounts: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """leadforge gives bands; an amount is drawn log-uniformly within the band."""
    accounts = accounts.set_index("account_id")
    revenue = log_uniform([REVENUE[band] for band in accounts["estimated_revenue_band"]], rng)
    employees = log_uniform([EMPLOYEES[band] for band in accounts["employee_band"]], rng)
    return pd.DataFrame(
        {
            "AnnualRevenue": np.round(revenue, -4).astype(int),
            "NumberOfEmployees": np.round(employees).astype(int),
            "Industry": accounts["industry"].map(INDUSTRY),
            "Country": accounts["region"].map(COUNTRY),
        },
        index=accounts.index,
    )


def titles_of(contacts: pd.DataFrame, titles: Mapping[str, float], rng: np.random.Generator) -> pd.DataFrame:
    """leadforge draws job title and seniority apart; the title here is one of the contact's seniority."""
    contacts = contacts.set_index("contact_id")
    by_level = {level: sorted(t for t, of in titles.items() if of == level) for level in SENIORITY.values()}
    drawn = [str(rng.choice(by_level[SENIORITY[band]])) for band in contacts["seniority"]]
    return pd.DataFrame({"Title": drawn}, index=contacts.index)


def engagement(
    leads: pd.DataFrame, touches: pd.DataFrame, sessions: pd.DataFrame, activities: pd.DataFrame
) -> pd.DataFrame:
    """What had happened to each lead up to and including its snapshot day."""
    touches = until_snapshot(leads, touches, "touch_timestamp")
    sessions = until_snapshot(leads, sessions, "session_timestamp")
    activities = until_snapshot(leads, activities, "activity_timestamp")
    visits = sessions.groupby("lead_id")
    recent = touches[touches["ago"] < 7]
    counts = pd.DataFrame(
        {
            "Website_Visits__c": visits.size(),
            "Page_Views_30d__c": visits["page_views"].sum(),
            "Pricing_Page_Views__c": visits["pricing_page_views"].sum(),
            "Session_Minutes__c": visits["session_duration_seconds"].sum() / 60,
            "Demo_Views": visits["demo_page_views"].sum(),
            "Email_Opens_30d__c": count(touches, "email"),
            "Content_Downloads__c": count(touches, "content_download"),
            "Webinars_Attended__c": count(touches, "webinar"),
            "Touches_7d__c": recent.groupby("lead_id").size(),
            "Sales_Activities__c": activities.groupby("lead_id").size(),
        },
        index=leads.index,
    ).fillna(0)
    happened = pd.concat([touches, sessions, activities])
    counts["Days_Since_Last_Activity__c"] = happened.groupby("lead_id")["ago"].min()
    return counts


def until_snapshot(leads: pd.DataFrame, events: pd.DataFrame, timestamp: str) -> pd.DataFrame:
    events = events.join(leads[["created", "day"]], on="lead_id", how="inner")
    events["ago"] = events["day"] - (pd.to_datetime(events[timestamp]) - events["created"]).dt.days
    return events[events["ago"] >= 0]


def count(touches: pd.DataFrame, touch_type: str) -> pd.Series:
    return touches[touches["touch_type"] == touch_type].groupby("lead_id").size()


def lead(row: Mapping[str, Any], rng: np.random.Generator) -> Lead:
    complete: dict[str, Any] = {
        "Title": row["Title"],
        "Industry": row["Industry"],
        "LeadSource": SOURCE[row["lead_source"]],
        "AnnualRevenue": int(row["AnnualRevenue"]),
        "NumberOfEmployees": int(row["NumberOfEmployees"]),
        "Country": row["Country"],
        "Website_Visits__c": int(row["Website_Visits__c"]),
        "Page_Views_30d__c": int(row["Page_Views_30d__c"]),
        "Pricing_Page_Views__c": int(row["Pricing_Page_Views__c"]),
        "Session_Minutes__c": round(float(row["Session_Minutes__c"]), 1),
        "Viewed_Demo__c": bool(row["Demo_Views"] > 0),
        "Email_Opens_30d__c": int(row["Email_Opens_30d__c"]),
        "Content_Downloads__c": int(row["Content_Downloads__c"]),
        "Webinars_Attended__c": int(row["Webinars_Attended__c"]),
        "Touches_7d__c": int(row["Touches_7d__c"]),
        "Sales_Activities__c": int(row["Sales_Activities__c"]),
        "Lead_Age_Days__c": int(row["day"]),
    }
    if not np.isnan(row["Days_Since_Last_Activity__c"]):
        complete["Days_Since_Last_Activity__c"] = int(row["Days_Since_Last_Activity__c"])
    return Lead(row["account_id"], complete, as_kept(complete, rng), bool(row["won"]))


def as_kept(complete: Mapping[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    """The record with the gaps and unlisted words of a real CRM, drawn independently of the outcome."""
    absent = {field for group in GROUPS if rng.random() < GROUP_ABSENT for field in group}
    record: dict[str, Any] = {}
    for field, value in complete.items():
        gap, unlisted = rng.random(2)
        if field in absent or gap < FIELD_ABSENT:
            continue
        words = UNLISTED_VALUES.get(field)
        record[field] = str(rng.choice(words)) if words and unlisted < UNLISTED else value
    return record


def table(rows: Iterable[Any]) -> pd.DataFrame:
    return pd.DataFrame([row.to_dict() for row in rows])


def log_uniform(bands: list[tuple[float, float]], rng: np.random.Generator) -> np.ndarray:
    low, high = np.log(np.asarray(bands, dtype=np.float64)).T
    return np.exp(rng.uniform(low, high))
