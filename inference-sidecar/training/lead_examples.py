"""Invented leads whose scores the cards name, and records that a parser may trip over."""

from typing import Any

NORTHWIND = {
    "FirstName": "Maya",
    "LastName": "Okafor",
    "Company": "Northwind Freight",
    "Title": "VP Operations",
    "Email": "maya.okafor@northwind.example",
    "Industry": "Transportation",
    "LeadSource": "Web",
    "AnnualRevenue": 18500000,
    "NumberOfEmployees": 240,
    "Country": "US",
    "Website_Visits__c": 14,
    "Days_Since_Last_Activity__c": 2,
    "Email_Opens_30d__c": 5,
}
STRONG = {
    "LastName": "Strand",
    "Company": "Harbor Mills",
    "Title": "CFO",
    "Industry": "Manufacturing",
    "LeadSource": "Partner Referral",
    "AnnualRevenue": 640000000,
    "NumberOfEmployees": 3100,
    "Country": "US",
    "Website_Visits__c": 5,
    "Page_Views_30d__c": 31,
    "Pricing_Page_Views__c": 4,
    "Session_Minutes__c": 28.5,
    "Viewed_Demo__c": True,
    "Email_Opens_30d__c": 4,
    "Content_Downloads__c": 3,
    "Webinars_Attended__c": 2,
    "Touches_7d__c": 3,
    "Sales_Activities__c": 7,
    "Days_Since_Last_Activity__c": 0,
    "Lead_Age_Days__c": 28,
}
WEAK = {
    "LastName": "Quill",
    "Company": "Corner Print",
    "Title": "Coordinator",
    "Industry": "Retail",
    "LeadSource": "Outbound",
    "AnnualRevenue": 1200000,
    "NumberOfEmployees": 210,
    "Country": "GB",
    "Website_Visits__c": 0,
    "Email_Opens_30d__c": 0,
    "Sales_Activities__c": 0,
    "Days_Since_Last_Activity__c": 19,
    "Lead_Age_Days__c": 20,
}
EXTREMES: list[dict[str, Any]] = [
    {},
    {"AnnualRevenue": None, "Title": None, "Viewed_Demo__c": None, "Country": None},
    {"AnnualRevenue": -5, "NumberOfEmployees": 1e30, "Website_Visits__c": 1e15, "Days_Since_Last_Activity__c": -3},
    {"Title": "Größter Chef 🚚", "Industry": "", "LeadSource": "web", "Country": "us"},
    {**STRONG, "AnnualRevenue": 123456789012345678901, "Lead_Age_Days__c": 0.25},
    {"Tags__c": [{"Title": "CEO"}], "Nested__c": {"Industry": "Healthcare"}, "Title": "CEO"},
]

NAMED = {"Northwind Freight": NORTHWIND, "strong": STRONG, "weak": WEAK}
