"""Score replies: from a text to a value in [0, 1], and from values to averages with intervals.

| module | what it does |
|---|---|
| `replies` | the end of a reply, without thinking and markup |
| `choices` | `extract_choice`: the letter in a reply, or nothing |
| `scores` | the rules that turn a reply into a value |
| `averages` | micro, macro, Wilson, bootstrap, McNemar |
"""
