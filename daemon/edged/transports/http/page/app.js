// The page: asks the box for its status every two seconds and shows it.

import { hasKey, KeyNeeded, rememberKey, tell } from "./box.js";
import { Trial } from "./ask.js";
import { Chart } from "./chart.js";
import { element, facts, find, say } from "./dom.js";
import { showSnippets, snippets } from "./snippets.js";
import { bytes, duration, number, seconds, speed, UNKNOWN } from "./words.js";

const EVERY_MS = 2000;

const STATES = {
  starting: ["Starting", "wait"],
  loading: ["Loading the model", "wait"],
  ready: ["Ready", "good"],
  degraded: ["Degraded", "warn"],
  draining: ["Stopping", "warn"],
  stopped: ["Stopped", "bad"],
};

class Page {
  constructor() {
    this.timer = null;
    this.before = null;
    this.snippetsFor = "";
    this.charts = makeCharts(find("charts"));
    this.trial = new Trial((why) => this.askForKey(why));
    find("gate-form").addEventListener("submit", (event) => {
      event.preventDefault();
      rememberKey(find("key").value.trim());
      find("key").value = "";
      this.refresh();
    });
    // Nobody looks: ask nothing. A box may have a dozen forgotten tabs.
    document.addEventListener("visibilitychange", () => {
      if (!document.hidden) this.refresh();
    });
  }

  async refresh() {
    clearTimeout(this.timer);
    try {
      const status = await tell("status");
      this.show(status);
      await this.introduce(status);
    } catch (error) {
      if (error instanceof KeyNeeded) {
        this.askForKey(error.message);
        return;
      }
      this.lost(error);
    }
    if (!document.hidden) this.timer = setTimeout(() => this.refresh(), EVERY_MS);
  }

  askForKey(why) {
    clearTimeout(this.timer);
    find("box").hidden = true;
    find("gate").hidden = false;
    say(find("gate-problem"), why);
    mood("Locked", "wait");
    find("key").focus();
  }

  lost(error) {
    const gone = error instanceof TypeError;
    mood(gone ? "No connection" : "No status", "bad");
    say(find("summary"), gone ? "The box does not answer; trying again." : error.message);
    find("box").classList.add("stale");
    this.before = null;
  }

  show(status) {
    find("gate").hidden = true;
    find("box").hidden = false;
    find("box").classList.remove("stale");
    say(find("node"), status.node);
    document.title = `${status.node} · edged`;
    say(find("version"), `edged ${status.version}, up ${duration(status.uptime_s)}`);
    mood(...health(status));
    find("raw").hidden = hasKey(); // a link cannot carry the key
    say(find("summary"), summary(status));
    showConditions(status.conditions);
    this.draw(status);
    showModel(status);
    showPlan(status);
    showMemory(status.memory);
    showServed(status);
    this.before = status;
  }

  draw(status) {
    const now_s = performance.now() / 1000;
    const { memory, host } = status;
    const used = memory.worker_anon_bytes + memory.worker_swap_bytes;
    const limit = memory.budget_bytes || null;
    const planned = status.predicted?.decode_tps ?? null;
    this.charts.speed.add(now_s, [tokensPerSecond(this.before, status)], {
      mark: planned,
      beside: planned === null ? "of all answers" : `of all, ${number(planned, 1)} planned for one`,
    });
    this.charts.queue.add(now_s, [status.running, status.queue]);
    this.charts.memory.add(now_s, [used], {
      mark: limit,
      beside: limit ? `${number((100 * used) / limit)}% of ${bytes(limit)}` : "no limit",
    });
    this.charts.heat.add(now_s, [host.temperature_c], {
      beside: host.temperature_c === null ? "no sensor" : (host.throttled ?? []).join(", "),
    });
  }

  // What only changes with the model or the broker.
  async introduce(status) {
    const about = JSON.stringify([status.model, status.mqtt, hasKey(), location.origin]);
    if (about === this.snippetsFor) return;
    const [info, models] = await Promise.all([tell("info"), tell("v1/models")]);
    find("try").hidden = !info.features.includes("chat");
    find("max-tokens").max = info.limits.max_tokens;
    showSnippets(
      snippets({
        origin: new URL(".", location.href).href.replace(/\/$/, ""),
        hostname: location.hostname,
        model: models.data[0]?.id ?? status.model.name,
        keyed: hasKey(),
        mqtt: status.mqtt,
      }),
    );
    this.snippetsFor = about;
  }
}

function makeCharts(parent) {
  const plain = (digits, unit = "") => (value) => `${number(value, digits)}${unit}`;
  return {
    speed: new Chart(parent, { id: "speed", title: "Tokens a second", mark: "planned", format: plain(1) }),
    queue: new Chart(parent, {
      id: "queue", title: "Requests", lines: ["running", "waiting"], format: plain(0), least: 4,
    }),
    memory: new Chart(parent, { id: "memory", title: "Memory", mark: "limit", format: bytes, least: 1 << 26 }),
    heat: new Chart(parent, { id: "heat", title: "Temperature", format: plain(0, " °C"), floor: 20, least: 60 }),
  };
}

// Of all answers together; null across a restart of the daemon, and the first time.
function tokensPerSecond(before, status) {
  if (!before || status.uptime_s <= before.uptime_s) return null;
  const tokens = status.counters.completion_tokens - before.counters.completion_tokens;
  return Math.max(0, tokens) / (status.uptime_s - before.uptime_s);
}

function mood(text, kind) {
  const state = find("state");
  say(state, text);
  state.dataset.mood = kind;
}

function health(status) {
  if (status.engine === "broken") return ["The model cannot be served", "bad"];
  const [text, kind] = STATES[status.state] ?? [status.state, "warn"];
  if (kind === "good" && status.conditions.length) return ["Ready, with a warning", "warn"];
  return [text, kind];
}

function summary(status) {
  const model = [status.model.name, status.model.quant].filter(Boolean).join(" ");
  const first = status.first_token_ms;
  if (status.decode_tps === null) return `${model} has answered nothing yet.`;
  return `${model} answers at ${speed(status.decode_tps)}, the first token after ${seconds(first / 1000)}.`;
}

function showConditions(conditions) {
  const list = find("conditions");
  const key = JSON.stringify(conditions);
  if (list.dataset.key === key) return;
  list.dataset.key = key;
  list.replaceChildren(
    ...conditions.map(({ code, severity, message, hint }) => {
      const item = element("li", { "data-severity": severity });
      item.append(element("strong", {}, code.replaceAll("_", " ")), message);
      if (hint) item.append(element("span", { class: "hint" }, hint));
      return item;
    }),
  );
}

function showModel({ model, engine, worker_pid: worker, mqtt }) {
  const rows = [
    ["Name", model.name],
    ["Quantization", model.quant || UNKNOWN],
    ["File", bytes(model.file_bytes)],
    ["Context", `${number(model.context_tokens)} tokens, for each of ${model.slots} at a time`],
    ["Engine", `${engine}${worker ? `, process ${worker}` : ""}`],
    ["Broker", mqtt ? `${mqtt.broker}, ${mqtt.connected ? "connected" : "not connected"}` : "MQTT is switched off"],
  ];
  if (mqtt) rows.push(["Topics", `${mqtt.topic}/…`]);
  if (mqtt?.pool) rows.push(["Pool", `${mqtt.pool.name}, ${mqtt.pool.state}, beside ${number(mqtt.pool.boxes)} other boxes`]);
  facts(find("model"), rows);
}

function showPlan({ predicted, decode_tps, prefill_tps, memory }) {
  const used = memory.worker_anon_bytes + memory.worker_swap_bytes;
  const first_s = prefill_tps ? 500 / prefill_tps : null;
  const rows = [
    ["Speed of one answer", predicted && speed(predicted.decode_tps), speed(decode_tps)],
    ["First token of 500 read", predicted && seconds(predicted.first_token_500_s), seconds(first_s)],
    ["Engine's memory", predicted && `${number(predicted.worker_mib)} MiB`, bytes(used)],
  ];
  const body = find("plan");
  if (!body.children.length) {
    body.append(...rows.map(([name]) => element("tr", {}, element("th", { scope: "row" }, name), element("td"), element("td"))));
  }
  rows.forEach(([, planned, here], index) => {
    say(body.children[index].children[1], planned || UNKNOWN);
    say(body.children[index].children[2], here);
  });
  const how = { measured: "The plan rests on a measurement of this computer.", estimated: "The plan's speed is an estimate." };
  say(find("plan-note"), predicted ? (how[predicted.speed] ?? "") : "This box was installed without a plan.");
}

function showMemory(memory) {
  const rows = [["Limit", memory.budget_bytes ? bytes(memory.budget_bytes) : "none"]];
  if (memory.enforced_by.length) rows.push(["Enforced by", memory.enforced_by.join(", ")]);
  const parts = [
    ["Program", "base_bytes"], ["Weights", "weights_bytes"], ["KV cache", "kv_bytes"],
    ["Recurrent state", "state_bytes"], ["Compute", "compute_bytes"], ["Kept prompts", "cache_bytes"],
  ];
  for (const [name, field] of parts) if (memory.parts?.[field]) rows.push([name, bytes(memory.parts[field])]);
  if (memory.worker_file_bytes) rows.push(["Model mapped", `${bytes(memory.worker_file_bytes)}, beside the limit`]);
  if (memory.supervisor_bytes) rows.push(["Daemon", bytes(memory.supervisor_bytes)]);
  facts(find("memory"), rows);
}

function showServed({ counters, host, intake }) {
  const slowed = host.throttled === null ? null : host.throttled.join(", ") || "no";
  const waits = Object.entries(host.stalls).map(([name, one]) => `${name} ${number(one.some_percent)}%`);
  const rows = [
    ["Answered", number(counters.finished)],
    ["Failed", number(counters.failed)],
    ["Refused", number(counters.refused)],
    ["Read", `${number(counters.prompt_tokens)} tokens, ${number(counters.cached_tokens)} of them known`],
    ["Written", `${number(counters.completion_tokens)} tokens`],
    ["Engine replaced", `${number(counters.engine_restarts)} times`],
  ];
  if (intake < 1) rows.push(["Let in", `${number(100 * intake)}% of the usual work`]);
  if (slowed !== null) rows.push(["Slowed down", slowed]);
  if (waits.length) rows.push(["Tasks waiting for", waits.join(", ")]);
  facts(find("served"), rows);
}

new Page().refresh();
