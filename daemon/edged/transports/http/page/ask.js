// The box to try a prompt: streams an answer, shows a thought apart, stops when told to.

import { ask, events, KeyNeeded } from "./box.js";
import { find, say } from "./dom.js";
import { number, seconds, speed } from "./words.js";

export class Trial {
  // `onKeyNeeded` is called when the box does not take the key any more.
  constructor(onKeyNeeded) {
    this.onKeyNeeded = onKeyNeeded;
    this.running = null;
    find("ask").addEventListener("submit", (event) => {
      event.preventDefault();
      this.start();
    });
    find("stop").addEventListener("click", () => this.stop());
    find("try").addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && !event.isComposing) {
        event.preventDefault();
        find("ask").requestSubmit();
      } else if (event.key === "Escape" && this.running) {
        this.stop();
      }
    });
  }

  stop() {
    this.running?.abort();
  }

  async start() {
    if (this.running) return;
    this.running = new AbortController();
    const tally = { text: "", begun: performance.now(), first: null, usage: null, timings: null };
    this.show(true);
    try {
      await this.stream(tally);
      say(find("outcome"), summary(tally));
    } catch (error) {
      if (error instanceof KeyNeeded) this.onKeyNeeded(error.message);
      else say(find("outcome"), this.running.signal.aborted ? "Stopped." : problem(error));
    } finally {
      this.running = null;
      this.show(false);
    }
  }

  async stream(tally) {
    const response = await ask("v1/chat/completions", {
      method: "POST",
      headers: { "content-type": "application/json", accept: "text/event-stream" },
      body: JSON.stringify(request()),
      signal: this.running.signal,
    });
    for await (const data of events(response)) {
      if (data === "[DONE]") break;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new Error(chunk.error.message);
      const choice = chunk.choices?.[0];
      const { content, reasoning_content: thought } = choice?.delta ?? {};
      if (content || thought) tally.first ??= performance.now();
      if (thought) {
        find("thought").hidden = false;
        find("thought-text").append(thought);
      }
      if (content) {
        tally.text += content;
        find("answer").append(content);
      }
      tally.finish = choice?.finish_reason ?? tally.finish;
      tally.usage = chunk.usage ?? tally.usage;
      tally.timings = chunk.timings ?? tally.timings;
    }
  }

  show(running) {
    const answer = find("answer");
    // Said as a whole when it is complete: token by token nobody could follow it.
    answer.setAttribute("aria-busy", String(running));
    if (running) {
      answer.replaceChildren();
      find("thought-text").replaceChildren();
      find("thought").hidden = true;
      say(find("outcome"), "");
    }
    const left = running ? find("send") : find("stop");
    const next = running ? find("stop") : find("send");
    const focused = document.activeElement === left;
    next.disabled = false;
    left.disabled = true;
    if (focused) next.focus();
  }
}

function request() {
  const system = find("system").value.trim();
  const messages = [{ role: "user", content: find("prompt").value }];
  if (system) messages.unshift({ role: "system", content: system });
  const asked = { messages, stream: true, stream_options: { include_usage: true } };
  if (find("max-tokens").value) asked.max_tokens = find("max-tokens").valueAsNumber;
  if (find("temperature").value) asked.temperature = find("temperature").valueAsNumber;
  return asked;
}

function summary({ usage, timings, begun, first, finish }) {
  const first_s = timings ? timings.first_ms / 1000 : first === null ? null : (first - begun) / 1000;
  const total_s = timings ? timings.total_ms / 1000 : (performance.now() - begun) / 1000;
  const written = usage?.completion_tokens ?? 0;
  const parts = [`${number(written)} tokens, first after ${seconds(first_s)}, ${seconds(total_s)} in all`];
  if (written > 1 && total_s > first_s) parts.push(speed((written - 1) / (total_s - first_s)));
  if (usage?.prompt_tokens_details?.cached_tokens) {
    parts.push(`${number(usage.prompt_tokens_details.cached_tokens)} prompt tokens were known`);
  }
  if (finish === "length") parts.push("cut at the limit of tokens");
  if (finish === "repetition") parts.push("stopped because it ran in a circle");
  return `${parts.join(" · ")}.`;
}

function problem(error) {
  return error instanceof TypeError ? "The connection to the box broke off." : error.message;
}
