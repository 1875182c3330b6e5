"""What the report is made of: the audit against masks, pictures, charts, and the page that holds them."""
