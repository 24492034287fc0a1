"""Training: configurations, data, the objective and the loop (needs the extra ``train``)."""
