"""HTTP: the live page and its model, on Starlette and uvicorn (an extra, attncli[serve]).

Only this room imports Starlette and uvicorn. Every request passes `guard` (who may ask), then a file of `routes` (what
is asked), then `desk` and `worker` (one thread runs the model).
"""
