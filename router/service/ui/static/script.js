"use strict";
// Shows a search's parts as they come. Without it the form works, too: its reply is then a page that grows.
(() => {
  const form = document.getElementById("ask");
  if (!form) return;
  const results = document.getElementById("results");
  const go = document.getElementById("go");
  const stop = document.getElementById("stop");
  const opened = new Map(); // what somebody opened or closed stays so when its part is replaced
  let running = null;

  const show = (part, html) => {
    const place = document.getElementById(part);
    if (!place) return;
    const focused = place.contains(document.activeElement) && document.activeElement.closest("[id]");
    place.innerHTML = html; // made by the server, which escapes what models wrote
    for (const each of place.querySelectorAll("details[id]")) {
      if (opened.has(each.id)) each.open = opened.get(each.id);
    }
    const again = focused && document.getElementById(focused.id);
    if (again) (again.querySelector("summary") || again).focus();
  };

  const plain = (part, text) => {
    show(part, "");
    const line = document.createElement("p");
    line.className = part === "error" ? "error" : "status";
    line.textContent = text;
    document.getElementById(part).append(line);
  };

  const read = async (reply) => {
    const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      for (const line of lines) {
        if (line) {
          const { part, html } = JSON.parse(line);
          show(part, html);
        }
      }
    }
  };

  const search = async () => {
    if (running) running.abort();
    const own = (running = new AbortController());
    for (const part of results.children) part.textContent = "";
    opened.clear();
    results.hidden = stop.hidden = false;
    plain("status", "Waiting for a place to search.");
    results.scrollIntoView({ block: "nearest" });
    try {
      const reply = await fetch(form.action, {
        method: "POST",
        body: new URLSearchParams(new FormData(form)),
        headers: { accept: "application/x-ndjson" },
        signal: own.signal,
      });
      if (reply.status === 401) return location.reload();
      if (reply.ok) await read(reply);
      else {
        show("status", "");
        show("error", await reply.text());
      }
    } catch (error) {
      if (own === running) {
        if (own.signal.aborted) plain("status", "You stopped the search.");
        else plain("error", "The server does not answer, or the connection was lost.");
      }
    } finally {
      if (own === running) {
        running = null;
        stop.hidden = true;
      }
    }
  };

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    search();
  });
  form.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit(go);
  });
  form.addEventListener("input", (event) => {
    const choice = event.target.type === "number" && event.target.closest(".choice");
    const radio = choice && choice.querySelector("input[type=radio]"); // a limit of time goes with any objective
    if (radio) radio.checked = true;
  });
  stop.addEventListener("click", () => running && running.abort());
  results.addEventListener("click", (event) => {
    const summary = event.target.closest("summary");
    if (summary && summary.parentElement.id) opened.set(summary.parentElement.id, !summary.parentElement.open);
  });
})();
