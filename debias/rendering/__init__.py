"""Reports and audits as pages, panels, charts and image grids."""
