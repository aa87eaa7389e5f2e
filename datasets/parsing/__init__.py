"""Readers that several data sets share: folder trees, tables, split lists, published archives."""
