"""WFDB records: headers, signals, and the `.mat` files of the PhysioNet challenges."""
