"""What another admission, expiry or other rule of a table would have kept, cost and removed: a log put through the
real tables' rules, without a model. `monolith inspect policy` prints it.
"""
