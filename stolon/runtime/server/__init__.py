"""The HTTP server: OpenAI's routes, the native one and the operator's, over one engine.

main, flags*, settings    the command: flags, socket, engine, signals; stopping is its end
batch, batch_files        the other command: a file of requests
app, route, request       the table of routes, what surrounds every one of them, and what they get
service                   what the server asks of an engine, and whether it is taking requests
connection                one TCP connection and its deadlines
body, fields, sampling    strict JSON, and what it may say
chat, completions, generate, messages, responses, embeddings, ranking, scoring, tokenizing, status, dashboard
                          one module for each kind of route; what it needs alone is in modules named after it
conversation, prompts, tools, constraints    what several routes read the same way
talk, hearing, formats    a conversation to a prompt; its answer to text, thoughts and calls
answers, native, stream, wire    deltas of the engine to complete answers, to events, to JSON
errors, auth              the one error shape; who may call
watching, meters, logs    what is measured and logged, and how the lines get out
openapi*                  the routes and their fields, described
"""
