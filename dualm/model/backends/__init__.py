"""One file per attention kernel; `dualm.model.attention` has their table and the interface they share."""
