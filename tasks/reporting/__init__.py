"""The step `report`: one HTML page, charts, numbers and Prefect artifacts out of a run's records."""
