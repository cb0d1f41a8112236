"""What every page is made of: one theme, one base template, charts as static SVG, and words that cannot act."""
