"""The OpenAPI document of the API, and a page that shows it."""
