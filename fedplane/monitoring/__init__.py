"""What is made from the registry of metrics: the page in docs, alert rules, dashboards."""
