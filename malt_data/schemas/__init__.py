"""The stored formats: columns, ids, versions, manifests, specs and the SQL views."""
