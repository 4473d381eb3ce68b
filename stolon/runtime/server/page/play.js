// A chat with the model, streamed.
let turns = [];
let underway = null;

function bubble(role, content) {
  const made = document.createElement("div");
  made.className = `turn ${role}`;
  made.append(content);
  byId("talk").append(made);
  made.scrollIntoView({ block: "nearest" });
  return made;
}

function asked() {
  const system = byId("system").value.trim();
  const body = {
    model: before?.model ?? "default",
    messages: [...(system ? [{ role: "system", content: system }] : []), ...turns],
    stream: true,
    stream_options: { include_usage: true },
  };
  for (const name of ["temperature", "top_p", "max_tokens", "seed"]) {
    if (byId(name).value !== "") body[name] = Number(byId(name).value);
  }
  const schema = byId("schema").value.trim();
  if (schema) body.response_format = { type: "json_schema", json_schema: { name: "answer", schema: JSON.parse(schema) } };
  return body;
}

async function* events(reply) {
  const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let rest = "", part; !(part = await reader.read()).done; ) {
    const lines = (rest + part.value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (line.startsWith("data: ") && line !== "data: [DONE]") yield JSON.parse(line.slice(6));
    }
  }
}

async function converse(question) {
  if (!turns.length) byId("talk").replaceChildren();
  turns.push({ role: "user", content: question });
  bubble("user", question);
  const text = document.createTextNode("");
  const answer = bubble("assistant", text);
  const began = performance.now();
  let first = null;
  try {
    const reply = await fetch("v1/chat/completions", {
      method: "POST",
      headers: { ...headers(), "Content-Type": "application/json" },
      body: JSON.stringify(asked()),
      signal: underway.signal,
    });
    if (!reply.ok) throw new Error((await reply.json()).error.message);
    let usage = null, reason = null;
    for await (const event of events(reply)) {
      if (event.error) throw new Error(event.error.message);
      const piece = event.choices[0]?.delta?.content;
      if (piece) {
        first ??= performance.now();
        text.data += piece;
        answer.scrollIntoView({ block: "nearest" });
      }
      reason = event.choices[0]?.finish_reason ?? reason;
      usage = event.usage ?? usage;
    }
    turns.push({ role: "assistant", content: text.data });
    note(answer, told(usage, reason, began, first));
  } catch (error) {
    if (error.name === "AbortError") {
      turns.push({ role: "assistant", content: text.data });
      return note(answer, "stopped");
    }
    turns.pop(); // a question that was refused is not part of the conversation
    answer.classList.add("failed");
    text.data += error.message;
  }
}

function told(usage, reason, began, first) {
  const seconds = (performance.now() - began) / 1000;
  const parts = [];
  if (first !== null) parts.push(`first token after ${Math.round(first - began)} ms`);
  if (usage) {
    const cached = usage.prompt_tokens_details?.cached_tokens ?? 0;
    parts.push(`${usage.completion_tokens} tokens in ${seconds.toFixed(1)} s`, `${cached} of ${usage.prompt_tokens} prompt tokens cached`);
  }
  if (reason === "length") parts.push("cut at the limit of tokens");
  return parts.join(" · ");
}

function note(answer, text) {
  const small = document.createElement("small");
  small.textContent = text;
  answer.append(small);
}

byId("ask").addEventListener("submit", async (event) => {
  event.preventDefault();
  if (underway) return underway.abort();
  const question = byId("question").value.trim();
  if (!question) return;
  try {
    asked();
  } catch (error) {
    return bubble("assistant failed", `The JSON schema cannot be read: ${error.message}`);
  }
  byId("question").value = "";
  underway = new AbortController();
  byId("send").textContent = "Stop";
  await converse(question);
  underway = null;
  byId("send").textContent = "Send";
});

byId("question").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey) {
    event.preventDefault();
    byId("ask").requestSubmit();
  }
});

byId("clear").addEventListener("click", () => {
  underway?.abort();
  turns = [];
  byId("talk").replaceChildren();
});

watch();
