"""OptEmbed offline: which ids a model needs, and how many columns each table, within a number of bytes.

After *OptEmbed: Learning Optimal Embedding Table for Click-through Rate Prediction* (Lyu et al. 2022), in three stages:
a supernet learns thresholds and all widths at once (`supernet`), an evolutionary search finds the widths that fit
(`search`, `evolution`, `budget`), and the tables that are left are trained anew (`retrain`). What comes out are tables
of kind ``optembed`` (`monolith.tables.prefix`), for serving and for going on online (`outcome`). Each stage goes on
where it was interrupted.
"""
