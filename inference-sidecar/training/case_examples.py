"""Invented cases whose results the cards name, and records that a parser may trip over."""

from typing import Any

OUTAGE: dict[str, Any] = {
    "Subject": "All scanners at the Leeds site are down",
    "Description": "This is unacceptable! The scanners stopped on Monday and nobody can work. We lose orders every hour. "
    "I want to speak to a manager now.",
    "Origin": "Phone",
    "Priority": "High",
    "Type": "Problem",
    "Reopen_Count__c": 2,
}
INVOICE: dict[str, Any] = {
    "Subject": "Question about invoice INV-20934",
    "Description": "Good morning, our purchase order 4711 is missing on the bill. There is no hurry. Thank you for your help.",
    "Origin": "Email",
    "Priority": "Medium",
    "Type": "Question",
    "Reopen_Count__c": 0,
}
LOCKED: dict[str, Any] = {
    "Subject": "Locked out",
    "Description": "Ingrid cannot log in since Friday, the code is rejected. It slows us down every day.",
    "Origin": "Web",
    "Type": "Problem",
}
PRAISE: dict[str, Any] = {
    "Subject": "Thank you!",
    "Description": "The new console is wonderful, and Priya was so kind and helpful. We love it.",
    "Origin": "Email",
}
NAMED = {
    "outage, reopened twice": OUTAGE,
    "question about an invoice": INVOICE,
    "locked out": LOCKED,
    "praise": PRAISE,
    "empty record": {},
}
EXTREMES: list[dict[str, Any]] = [
    {"Subject": None, "Description": "", "Origin": None, "Reopen_Count__c": None},
    {"Subject": "🚚🚚🚚 …", "Description": "\t\n—", "Origin": "Carrier pigeon", "Reopen_Count__c": "3"},
    {
        "Subject": "ÉCRAN NOIR à l'démarrage",
        "Description": "Größe falsch. 東京の工場 ИНТЕРНЕТ не работает",
        "Reopen_Count__c": 400,
    },
    {"Subject": 17, "Description": ["no", "text"], "Priority": "high", "Type": ""},
    {**OUTAGE, "Description": "help " * 900, "attributes": {"type": "Case"}},
]
SAMPLES = [*NAMED.values(), *EXTREMES]
