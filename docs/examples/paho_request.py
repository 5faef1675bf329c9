"""Asks a box and prints the answer, with MQTT 3.1.1 or 5.

pip install paho-mqtt
python paho_request.py HOST PORT edged/NODE 5 "Is 7 a prime number?"
"""

import json
import queue
import sys
import uuid

import paho.mqtt.client as mqtt

CLIENT = "paho"  # with the access list of docs/mqtt.md: the name this program has at the broker

host, port, box, version, question = sys.argv[1:]
messages: queue.Queue[dict] = queue.Queue()
protocol = mqtt.MQTTv5 if version == "5" else mqtt.MQTTv311
client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, protocol=protocol)
client.on_message = lambda _client, _data, message: messages.put(json.loads(message.payload))
client.on_connect = lambda *_: client.subscribe(
    [(f"{box}/response/{CLIENT}/+", 1), (f"{box}/stream/{CLIENT}", 0)]
)
client.on_subscribe = lambda *_: client.publish(f"{box}/request/{CLIENT}/chat", json.dumps(request), qos=1)

request = {"id": uuid.uuid4().hex, "prompt": question, "max_tokens": 60, "stream": True, "ttl_s": 60}
client.connect(host, int(port))
client.loop_start()

parts: dict[int, str] = {}
while True:
    message = messages.get(timeout=120)
    if message["id"] != request["id"]:
        continue  # the answer to somebody else of this name
    if message.get("kind") == "accepted":
        print(f"place {message['position']} in the queue, about {message['eta_s']} s", file=sys.stderr)
    elif message.get("kind"):
        print(message["delta"], end="", flush=True, file=sys.stderr)  # at QoS 0: some may be lost
    elif not message["ok"]:
        sys.exit(f"{message['error']['code']}: {message['error']['message']}")
    else:
        parts[message["part"]] = message["text"]
        if len(parts) == message["parts"]:
            break
print("".join(text for _, text in sorted(parts.items())))
client.disconnect()
client.loop_stop()
