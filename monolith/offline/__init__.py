"""The offline benchmark (`monolith bench ctr`): data sets x models x kinds of table x bytes x seeds."""
