// Asks a box and prints the answer, with MQTT 3.1.1 or 5.
// npm install mqtt, or Debian's node-mqtt with NODE_PATH=/usr/share/nodejs
//
//     node request.js HOST PORT edged/NODE 5 "Is 7 a prime number?"
"use strict";
const mqtt = require("mqtt");

const NAME = "js"; // with the access list of docs/mqtt.md: the name this program has at the broker
const [host, port, box, version, question] = process.argv.slice(2);
const five = version === "5";
const id = `js-${process.pid}-${Date.now()}`;

// On 5 a response topic of our own below the ordinary one; on 3.1.1 the ordinary one, told apart by the id.
const replies = five ? `${box}/response/${NAME}/${id}` : `${box}/response/${NAME}/chat`;
const client = mqtt.connect({ host, port: Number(port), protocolVersion: five ? 5 : 4 });

client.on("connect", () => {
  client.subscribe(replies, { qos: 1 }, (error) => {
    if (error) return fail(error.message);
    const request = { id, prompt: question, max_tokens: 60, max_bytes: 1024 };
    const properties = five ? { responseTopic: replies, correlationData: Buffer.from(id) } : undefined;
    client.publish(`${box}/request/${NAME}/chat`, JSON.stringify(request), { qos: 1, properties });
  });
});

let text = "";
let answered = false;
client.on("message", (_topic, payload, packet) => {
  const answer = JSON.parse(payload);
  if ((five ? packet.properties.correlationData.toString() : answer.id) !== id) return;
  if (!answer.ok) return fail(`${answer.error.code}: ${answer.error.message}`);
  text += answer.text; // parts come in order
  if (answer.part < answer.parts) return;
  console.log(text);
  answered = true;
  client.end();
});

// A broker may reset a connection that is being closed; that is no failure.
client.on("error", (error) => answered || fail(error.message));

function fail(why) {
  console.error(why);
  process.exitCode = 1;
  client.end(true);
}
