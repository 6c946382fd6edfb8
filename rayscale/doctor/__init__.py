"""`rayscale doctor`: can a sweep run on this machine, what will its energy be worth, and what to do about it.

gpu, host, software   each looks at one part and returns `Check`s: nothing is changed, nothing raises
examine               puts them together into one screen and one exit code
"""
