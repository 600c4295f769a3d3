"""The workshop: offline work on models. Serving code never imports it."""
