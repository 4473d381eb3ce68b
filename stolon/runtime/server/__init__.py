"""The HTTP server: OpenAI's routes, the native one and the operator's, over one engine.

main        the command: flags, socket, engine, signals
app         routes and what surrounds every one of them; request is what they get
service     what the server asks of an engine, and whether it is taking requests
connection  one TCP connection and its deadlines
body, fields, sampling    strict JSON, and what it may say
chat, completions, generate, scoring, status    one module for each kind of route
answers, stream, wire     deltas of the engine to complete answers, to events, to JSON
errors, auth              the one error shape; who may call
watching, meters, logs    what is measured and logged, and how the lines get out
"""
