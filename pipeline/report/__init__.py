"""The report: the audit with masks, held-out estimates, pictures, charts, and the page that shows them."""
