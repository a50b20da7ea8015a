"""CAR files: reading every form, writing, and cutting a stream into batches for a store. No index rows here."""
