"""The local page of `tcformer serve`: see the tokens of a picture in a browser, stage by stage.

`networks` knows what may be chosen and keeps what is in use, `pictures` reads what visitors send
(and trusts none of it), `payload` turns one picture and one network into what the browser draws,
`page` lays the page out with Gradio, `guard` decides which requests are answered at all, and
`server` runs it. Gradio is an extra; only `page` imports it.
"""
