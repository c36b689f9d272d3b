"""What is stored: columns (`forest`), ids (`ids`), versions, the manifest and the SQL views."""
