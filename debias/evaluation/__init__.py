"""How fair, how sure, at what price: metrics, confidence, and the report and the audit as data."""
