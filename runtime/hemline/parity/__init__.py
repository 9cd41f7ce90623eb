"""`hemline verify`: files run on test samples, and the statistics that judge them."""
