// Programs that ask this very box, ready to be copied.

import { element, find } from "./dom.js";

const LOOPBACK = /^(localhost|127\.|\[?::1\]?$)/;

// Snippets as {name, note, code}; `mqtt` is null on a box without MQTT. The key itself is in none of them.
export function snippets({ origin, hostname, model, keyed, mqtt }) {
  const auth = keyed ? ` \\\n  -H "Authorization: Bearer $EDGED_KEY"` : "";
  const key = keyed ? 'os.environ["EDGED_KEY"]' : '"none"';
  const where = keyed ? "The API key is taken from the environment variable EDGED_KEY." : "";
  return [
    {
      name: "curl",
      note: where,
      code: `curl -N ${origin}/v1/chat/completions${auth} \\
  -H "Content-Type: application/json" \\
  -d '{"messages": [{"role": "user", "content": "Is 7 a prime number?"}], "stream": true}'`,
    },
    {
      name: "OpenAI, Python",
      note: `pip install openai. ${where}`,
      code: `${keyed ? "import os\n\n" : ""}from openai import OpenAI

client = OpenAI(base_url="${origin}/v1", api_key=${key})
answer = client.chat.completions.create(
    model="${model}",
    messages=[{"role": "user", "content": "Is 7 a prime number?"}],
    stream=True,
)
for chunk in answer:
    if chunk.choices:
        print(chunk.choices[0].delta.content or "", end="", flush=True)
print()`,
    },
    ...(mqtt ? overMqtt(mqtt, hostname) : []),
  ];
}

function overMqtt({ broker, topic }, hostname) {
  const cut = broker.lastIndexOf(":");
  const [named, port] = [broker.slice(0, cut), broker.slice(cut + 1)];
  // The broker as the box reaches it; on the box itself it is where this page is.
  const host = LOOPBACK.test(named) ? hostname : named;
  const note = "A broker that asks for a name and password takes them from -u and -P, TLS from --cafile.";
  return [
    {
      name: "mosquitto_pub",
      note: `Plain text in, plain text out. ${note}`,
      code: `mosquitto_sub -h ${host} -p ${port} -t ${topic}/answer -C 1 &
mosquitto_pub -h ${host} -p ${port} -t ${topic}/ask -q 1 -m 'Is 7 a prime number?'`,
    },
    {
      name: "mosquitto_rr",
      note: `Request and response in one call. ${note}`,
      code: `mosquitto_rr -V 5 -h ${host} -p ${port} -q 1 \\
  -t ${topic}/request/shell/chat -e ${topic}/response/shell/rr \\
  -m '{"prompt": "Is 7 a prime number?"}'`,
    },
    {
      name: "paho, Python",
      note: "pip install paho-mqtt",
      code: `import json
import paho.mqtt.client as mqtt

BOX, ME = "${topic}", "python"

def connected(client, userdata, flags, reason, properties):
    client.subscribe(f"{BOX}/response/{ME}/chat", qos=1)

def subscribed(client, userdata, mid, reasons, properties):
    question = {"id": "1", "prompt": "Is 7 a prime number?"}
    client.publish(f"{BOX}/request/{ME}/chat", json.dumps(question), qos=1)

def answered(client, userdata, message):
    answer = json.loads(message.payload)
    print(answer["text"] if answer["ok"] else answer["error"]["message"])
    client.disconnect()

client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
client.on_connect, client.on_subscribe, client.on_message = connected, subscribed, answered
client.connect("${host}", ${port})
client.loop_forever()`,
    },
  ];
}

// Tabs as https://www.w3.org/WAI/ARIA/apg/patterns/tabs/ has them: one stop for Tab, arrows move between.
export function showSnippets(list) {
  const [tabs, panels] = [find("snippet-tabs"), find("snippet-panels")];
  const chosen = [...tabs.children].findIndex((tab) => tab.getAttribute("aria-selected") === "true");
  tabs.replaceChildren(...list.map(({ name }, index) => tab(name, index)));
  panels.replaceChildren(...list.map(panel));
  const choose = (index, focus) => {
    [...tabs.children].forEach((one, at) => {
      one.setAttribute("aria-selected", String(at === index));
      one.tabIndex = at === index ? 0 : -1;
      panels.children[at].hidden = at !== index;
    });
    if (focus) tabs.children[index].focus();
  };
  tabs.onclick = (event) => {
    const index = [...tabs.children].indexOf(event.target);
    if (index >= 0) choose(index, true);
  };
  tabs.onkeydown = (event) => {
    const index = [...tabs.children].indexOf(event.target);
    const last = tabs.children.length - 1;
    const next = { ArrowRight: index < last ? index + 1 : 0, ArrowLeft: index ? index - 1 : last, Home: 0, End: last };
    if (!(event.key in next)) return;
    event.preventDefault();
    choose(next[event.key], true);
  };
  choose(Math.min(Math.max(chosen, 0), list.length - 1), false);
}

function tab(name, index) {
  return element("button", { type: "button", role: "tab", id: `tab-${index}`, "aria-controls": `panel-${index}` }, name);
}

function panel({ name, note, code }, index) {
  const text = element("pre", { tabindex: "0", role: "region", "aria-label": `Program: ${name}` });
  text.append(element("code", {}, code));
  const button = element("button", { type: "button", class: "quiet" }, "Copy");
  const told = element("span", { class: "hint", role: "status" });
  button.addEventListener("click", async () => {
    told.textContent = (await copy(code, text)) ? "Copied." : "The text is selected; copy it with Ctrl + C.";
  });
  const row = element("div", { class: "row" }, button, told);
  const hint = element("p", { class: "hint" }, note.trim());
  return element(
    "div", { class: "snippet", role: "tabpanel", id: `panel-${index}`, "aria-labelledby": `tab-${index}` }, text, row, hint,
  );
}

// A page over plain http has no navigator.clipboard; the old way works there.
async function copy(code, node) {
  try {
    await navigator.clipboard.writeText(code);
    return true;
  } catch {
    getSelection().selectAllChildren(node);
    return document.execCommand("copy");
  }
}
