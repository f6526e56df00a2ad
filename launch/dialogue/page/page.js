// A chat with the model behind this page: OpenAI's API, the answer as it comes.
"use strict";

const at = (id) => document.getElementById(id);
const turns = []; // {role, content, shown}: shown is its element
let asking = null; // what calls off the answer that comes now

function show(role, content) {
  const shown = document.createElement("p");
  shown.className = `turn ${role}`;
  shown.textContent = content;
  at("chat").append(shown);
  shown.scrollIntoView({ block: "end" });
  return shown;
}

function say(text) {
  at("said").textContent = text;
}

function headers() {
  const key = at("key").value.trim();
  const own = { "content-type": "application/json" };
  return key ? { ...own, authorization: `Bearer ${key}` } : own;
}

// What is asked: the system prompt, the turns that the model has room for, and the settings that were set.
function request() {
  const system = at("system").value.trim();
  const messages = system ? [{ role: "system", content: system }] : [];
  for (const { role, content, isLeftOut } of turns) if (!isLeftOut) messages.push({ role, content });
  const asked = { messages, stream: true, stream_options: { include_usage: true } };
  for (const id of ["temperature", "max_tokens", "seed"])
    if (at(id).value !== "") asked[id] = Number(at(id).value);
  return asked;
}

// Leave the oldest question and its answer out of what is asked; false where only the last is left.
function leaveOldestOut() {
  const first = turns.findIndex((turn) => !turn.isLeftOut);
  const next = turns.findIndex((turn, n) => n > first && turn.role === "user");
  if (next < 0) return false;
  for (const turn of turns.slice(0, next)) {
    turn.isLeftOut = true;
    turn.shown.classList.add("left-out");
  }
  return true;
}

async function* events(response) {
  const decoder = new TextDecoder();
  let held = "";
  const reader = response.body.getReader(); // no loop over the body itself: not every browser has that
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const lines = (held + decoder.decode(value, { stream: true })).split("\n\n");
    held = lines.pop();
    for (const line of lines) {
      const said = line.replace(/^data: /, "");
      if (said !== "[DONE]") yield JSON.parse(said);
    }
  }
}

async function opened(signal) {
  for (;;) {
    const response = await fetch("v1/chat/completions", {
      method: "POST", headers: headers(), body: JSON.stringify(request()), signal,
    });
    if (response.ok) return response;
    const { error } = await response.json();
    if (error.code === "context_length_exceeded" && leaveOldestOut()) continue;
    if (response.status === 401) at("settings").open = true;
    throw new Error(error.message);
  }
}

// Add the answer to the last question, part by part.
async function answer(signal) {
  const response = await opened(signal);
  const turn = { role: "assistant", content: "", shown: show("assistant", "") };
  let finish = null;
  let usage = null;
  const startedAt = performance.now();
  try {
    for await (const piece of events(response)) {
      if (piece.error) throw new Error(piece.error.message);
      usage = piece.usage ?? usage;
      finish = piece.choices[0]?.finish_reason ?? finish;
      turn.content += piece.choices[0]?.delta.content ?? "";
      turn.shown.textContent = turn.content;
      turn.shown.scrollIntoView({ block: "end" });
    }
  } finally {
    if (turn.content.trim()) turns.push(turn);
    else turn.shown.remove();
  }
  const seconds = (performance.now() - startedAt) / 1000;
  const took = usage ? `${usage.completion_tokens} tokens in ${seconds.toFixed(1)} s.` : "";
  const short = finish === "length" ? " The answer reached its longest length." : "";
  const none = turn.content.trim() ? "" : " The model ended its answer before the first word.";
  const left = turns.some(({ isLeftOut }) => isLeftOut) ? " The oldest turns no longer fit and were left out." : "";
  say(took + short + none + left);
}

async function send() {
  const question = at("question").value.trim();
  if (asking || !question) return;
  // A question that got no answer is asked anew with the next one's words.
  if (turns.at(-1)?.role === "user") turns.pop().shown.remove();
  turns.push({ role: "user", content: question, shown: show("user", question) });
  at("question").value = "";
  asking = new AbortController();
  busy(true);
  say("…");
  try {
    await answer(asking.signal);
  } catch (error) {
    if (error.name === "AbortError") say("Stopped.");
    else {
      say(error.message);
      if (turns.at(-1).role === "user" && !at("question").value) at("question").value = question;
    }
  } finally {
    asking = null;
    busy(false);
    at("question").focus();
  }
}

function busy(is) {
  at("send").hidden = is;
  at("stop").hidden = !is;
  at("new").disabled = is;
}

function newChat() {
  turns.length = 0;
  at("chat").replaceChildren();
  say("");
}

async function greet() {
  const response = await fetch("v1/models", { headers: headers() });
  const told = await response.json();
  if (response.ok) document.title = at("model").textContent = told.data[0].id;
  else say(told.error.message);
  at("settings").open = response.status === 401;
}

at("send").addEventListener("click", send);
at("stop").addEventListener("click", () => asking?.abort());
at("new").addEventListener("click", newChat);
at("key").addEventListener("change", () => greet().catch((error) => say(error.message)));
at("question").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    send();
  }
});
greet().catch((error) => say(error.message));
