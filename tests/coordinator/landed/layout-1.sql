BEGIN TRANSACTION;
CREATE TABLE cost_models (
	device_id VARCHAR(256) NOT NULL, 
	bundle_id VARCHAR(128) NOT NULL, 
	state TEXT NOT NULL, 
	PRIMARY KEY (device_id, bundle_id)
);
INSERT INTO "cost_models" VALUES('a','sha256:6d15bb3e8a9b8912cf5a963ce700dcc87a11518eea911ce5e7bde794cc7a9263','{"embed": {"guess": [0.265, 0.03212121212121212], "prior": [[0.4444444444444444, 0.0], [0.0, 0.4444444444444444]], "information": [[0.4444444444444444, 0.0], [0.0, 0.4444444444444444]], "factors": [1.0, 1.0], "noise": 0.2, "run": 0, "seen": 0}, "train": {"guess": [0.0265, 0.0026580945454545454], "prior": [[0.4444444444444444, 0.0], [0.0, 0.4444444444444444]], "information": [[0.4444444444444444, 0.0], [0.0, 0.4444444444444444]], "factors": [1.0, 1.0], "noise": 0.2, "run": 0, "seen": 0}, "encode": {"guess": [0.05305565], "prior": [[0.4444444444444444]], "information": [[0.4444444444444444]], "factors": [1.0], "noise": 0.2, "run": 0, "seen": 0}, "send": {"guess": [0.159, 2.65e-06], "prior": [[0.4444444444444444, 0.0], [0.0, 0.4444444444444444]], "information": [[0.4444444444444444, 0.0], [0.0, 0.4444444444444444]], "factors": [1.0, 1.0], "noise": 0.2, "run": 0, "seen": 0}, "idle": {"guess": [3.85, 7.249999999999998e-07], "prior": [[1.0, 0.0], [0.0, 1.0]], "information": [[1.0, 0.0], [0.0, 1.0]], "factors": [1.0, 1.0], "noise": 0.2, "run": 0, "seen": 0}}');
INSERT INTO "cost_models" VALUES('b','sha256:6d15bb3e8a9b8912cf5a963ce700dcc87a11518eea911ce5e7bde794cc7a9263','{"embed": {"guess": [0.265, 0.03212121212121212], "prior": [[0.4444444444444444, 0.0], [0.0, 0.4444444444444444]], "information": [[0.4444444444444444, 0.0], [0.0, 0.4444444444444444]], "factors": [1.0, 1.0], "noise": 0.2, "run": 0, "seen": 0}, "train": {"guess": [0.0265, 0.0026580945454545454], "prior": [[0.4444444444444444, 0.0], [0.0, 0.4444444444444444]], "information": [[0.4444444444444444, 0.0], [0.0, 0.4444444444444444]], "factors": [1.0, 1.0], "noise": 0.2, "run": 0, "seen": 0}, "encode": {"guess": [0.05305565], "prior": [[0.4444444444444444]], "information": [[0.4444444444444444]], "factors": [1.0], "noise": 0.2, "run": 0, "seen": 0}, "send": {"guess": [0.159, 2.65e-06], "prior": [[0.4444444444444444, 0.0], [0.0, 0.4444444444444444]], "information": [[0.4444444444444444, 0.0], [0.0, 0.4444444444444444]], "factors": [1.0, 1.0], "noise": 0.2, "run": 0, "seen": 0}, "idle": {"guess": [3.85, 7.249999999999998e-07], "prior": [[1.0, 0.0], [0.0, 1.0]], "information": [[1.0, 0.0], [0.0, 1.0]], "factors": [1.0, 1.0], "noise": 0.2, "run": 0, "seen": 0}}');
INSERT INTO "cost_models" VALUES('c','sha256:6d15bb3e8a9b8912cf5a963ce700dcc87a11518eea911ce5e7bde794cc7a9263','{"embed": {"guess": [0.265, 0.03212121212121212], "prior": [[0.4444444444444444, 0.0], [0.0, 0.4444444444444444]], "information": [[0.4444444444444444, 0.0], [0.0, 0.4444444444444444]], "factors": [1.0, 1.0], "noise": 0.2, "run": 0, "seen": 0}, "train": {"guess": [0.0265, 0.0026580945454545454], "prior": [[0.4444444444444444, 0.0], [0.0, 0.4444444444444444]], "information": [[0.4444444444444444, 0.0], [0.0, 0.4444444444444444]], "factors": [1.0, 1.0], "noise": 0.2, "run": 0, "seen": 0}, "encode": {"guess": [0.05305565], "prior": [[0.4444444444444444]], "information": [[0.4444444444444444]], "factors": [1.0], "noise": 0.2, "run": 0, "seen": 0}, "send": {"guess": [0.159, 2.65e-06], "prior": [[0.4444444444444444, 0.0], [0.0, 0.4444444444444444]], "information": [[0.4444444444444444, 0.0], [0.0, 0.4444444444444444]], "factors": [1.0, 1.0], "noise": 0.2, "run": 0, "seen": 0}, "idle": {"guess": [3.85, 7.249999999999998e-07], "prior": [[1.0, 0.0], [0.0, 1.0]], "information": [[1.0, 0.0], [0.0, 1.0]], "factors": [1.0, 1.0], "noise": 0.2, "run": 0, "seen": 0}}');
CREATE TABLE devices (
	device_id VARCHAR(256) NOT NULL, 
	session VARCHAR(256) NOT NULL, 
	state VARCHAR(16) NOT NULL, 
	card TEXT NOT NULL, 
	last_seen_unix_s FLOAT NOT NULL, 
	PRIMARY KEY (device_id)
);
INSERT INTO "devices" VALUES('a','a-1','here','{"board": "pi4", "budget_j": null, "device_id": "a", "engine": {"accelerator": "", "delegate": "xnnpack", "name": "ai-edge-litert", "version": "2.3.0"}, "meter": {"calibration_id": "", "method": "measured", "quality": "", "sensor": "ina219:test"}, "session": "a-1", "software_version": "0", "test_examples": 10, "train_examples": 40}',1795934169.93521);
INSERT INTO "devices" VALUES('b','b-1','here','{"board": "pi4", "budget_j": null, "device_id": "b", "engine": {"accelerator": "", "delegate": "xnnpack", "name": "ai-edge-litert", "version": "2.3.0"}, "meter": {"calibration_id": "", "method": "measured", "quality": "", "sensor": "ina219:test"}, "session": "b-1", "software_version": "0", "test_examples": 10, "train_examples": 40}',1.79593416995474863045e+09);
INSERT INTO "devices" VALUES('c','c-1','left','{"board": "pi4", "budget_j": null, "device_id": "c", "engine": {"accelerator": "", "delegate": "xnnpack", "name": "ai-edge-litert", "version": "2.3.0"}, "meter": {"calibration_id": "", "method": "measured", "quality": "", "sensor": "ina219:test"}, "session": "c-1", "software_version": "0", "test_examples": 10, "train_examples": 40}',1.79593417001849508284e+09);
CREATE TABLE differences (
	run_id VARCHAR(64) NOT NULL, 
	sequence INTEGER NOT NULL, 
	"before" VARCHAR(64) NOT NULL, 
	"after" VARCHAR(64) NOT NULL, 
	data BLOB NOT NULL, 
	PRIMARY KEY (run_id, sequence), 
	FOREIGN KEY(run_id) REFERENCES runs (run_id)
);
CREATE TABLE energy (
	run_id VARCHAR(64) NOT NULL, 
	round INTEGER NOT NULL, 
	device_id VARCHAR(256) NOT NULL, 
	phase VARCHAR(16) NOT NULL, 
	energy_j FLOAT, 
	covered_s FLOAT NOT NULL, 
	uncovered_s FLOAT NOT NULL, 
	method VARCHAR(16) NOT NULL, 
	sensor VARCHAR(256) NOT NULL, 
	uncertainty_j FLOAT, 
	flags TEXT NOT NULL, 
	PRIMARY KEY (run_id, round, device_id, phase), 
	FOREIGN KEY(run_id, round, device_id) REFERENCES orders (run_id, round, device_id)
);
INSERT INTO "energy" VALUES('run-0d04d6c521',1,'a','embed',1.0,1.0,0.0,'measured','ina219:test',0.01,'[]');
INSERT INTO "energy" VALUES('run-0d04d6c521',1,'a','train',2.0,1.0,0.0,'measured','ina219:test',0.01,'[]');
INSERT INTO "energy" VALUES('run-0d04d6c521',1,'a','encode',0.5,1.0,0.0,'measured','ina219:test',0.01,'[]');
CREATE TABLE events (
	sequence INTEGER NOT NULL, 
	run_id VARCHAR(64) NOT NULL, 
	round INTEGER, 
	unix_s FLOAT NOT NULL, 
	kind VARCHAR(32) NOT NULL, 
	detail TEXT NOT NULL, 
	PRIMARY KEY (sequence), 
	FOREIGN KEY(run_id) REFERENCES runs (run_id)
);
INSERT INTO "events" VALUES(1,'run-0d04d6c521',1,1.79593417201752805715e+09,'abandoned','round 1, attempt 1: the deadline passed with 1 of 3 reports, 3 needed');
CREATE TABLE grants (
	run_id VARCHAR(64) NOT NULL, 
	round INTEGER NOT NULL, 
	device_id VARCHAR(256) NOT NULL, 
	unix_s FLOAT NOT NULL, 
	granted_j FLOAT, 
	expected_j FLOAT, 
	sending_j FLOAT, 
	standing_j FLOAT, 
	probability FLOAT NOT NULL, 
	factor FLOAT NOT NULL, 
	bits FLOAT, 
	costs TEXT NOT NULL, 
	bytes_up BIGINT NOT NULL, 
	change FLOAT, 
	deviation FLOAT, 
	learnt INTEGER NOT NULL, 
	PRIMARY KEY (run_id, round, device_id), 
	FOREIGN KEY(run_id, round, device_id) REFERENCES orders (run_id, round, device_id)
);
INSERT INTO "grants" VALUES('run-0d04d6c521',1,'a',1.79593416996986484529e+09,5.0,1.80350720757575744279e+00,0.21386825,5.0,1.0,1.0,NULL,'{"embedding_j": 0.0, "step_j": 0.0, "sending_j": 0.21386825, "work_w": 5.3}',479,9.16515138991168099025e-01,9.16515138991168099025e-01,0);
INSERT INTO "grants" VALUES('run-0d04d6c521',1,'b',1.79593416996986484529e+09,5.0,1.80350720757575744279e+00,0.21386825,5.0,1.0,1.0,NULL,'{"embedding_j": 0.0, "step_j": 0.0, "sending_j": 0.21386825, "work_w": 5.3}',0,NULL,NULL,0);
INSERT INTO "grants" VALUES('run-0d04d6c521',1,'c',1.79593416996986484529e+09,5.0,1.80350720757575744279e+00,0.21386825,5.0,1.0,1.0,NULL,'{"embedding_j": 0.0, "step_j": 0.0, "sending_j": 0.21386825, "work_w": 5.3}',0,NULL,NULL,0);
CREATE TABLE heads (
	version VARCHAR(64) NOT NULL, 
	shapes TEXT NOT NULL, 
	data BLOB NOT NULL, 
	PRIMARY KEY (version)
);
INSERT INTO "heads" VALUES('head-7b0761c9e128','{"out_bias": [3], "out_kernel": [6, 3]}',X'000000000000000000000000614B4DBF9884A9BF82527EBE9944D73EF969913FC0ADE03D4B7A0DBF5EE748BFCEAD3F3F9240D13F59A88B3EB7DD9DBFDE5075BF6DCDCC3F6AC04F3E98B6DDBFE968ABBD97E494BF');
CREATE TABLE layout (
	version INTEGER NOT NULL, 
	PRIMARY KEY (version)
);
INSERT INTO "layout" VALUES(1);
CREATE TABLE orders (
	run_id VARCHAR(64) NOT NULL, 
	round INTEGER NOT NULL, 
	device_id VARCHAR(256) NOT NULL, 
	outcome VARCHAR(16) NOT NULL, 
	steps INTEGER NOT NULL, 
	budget_j FLOAT, 
	bytes_up BIGINT NOT NULL, 
	bytes_down BIGINT NOT NULL, 
	PRIMARY KEY (run_id, round, device_id), 
	FOREIGN KEY(run_id, round) REFERENCES rounds (run_id, round)
);
INSERT INTO "orders" VALUES('run-0d04d6c521',1,'a','accepted',5,5.0,479,384);
INSERT INTO "orders" VALUES('run-0d04d6c521',1,'b','missing',5,5.0,0,14928);
INSERT INTO "orders" VALUES('run-0d04d6c521',1,'c','missing',5,5.0,0,384);
CREATE TABLE refusals (
	run_id VARCHAR(64) NOT NULL, 
	round INTEGER NOT NULL, 
	device_id VARCHAR(256) NOT NULL, 
	code VARCHAR(32) NOT NULL, 
	count BIGINT NOT NULL, 
	detail TEXT NOT NULL, 
	PRIMARY KEY (run_id, round, device_id, code), 
	FOREIGN KEY(run_id, round, device_id) REFERENCES orders (run_id, round, device_id)
);
CREATE TABLE reports (
	sequence INTEGER NOT NULL, 
	run_id VARCHAR(64) NOT NULL, 
	round INTEGER NOT NULL, 
	device_id VARCHAR(256) NOT NULL, 
	data BLOB NOT NULL, 
	sha256 BLOB NOT NULL, 
	weight FLOAT NOT NULL, 
	steps_done INTEGER NOT NULL, 
	examples BIGINT NOT NULL, 
	stop_reason VARCHAR(16) NOT NULL, 
	loss FLOAT, 
	embedded BIGINT NOT NULL, 
	accepted_unix_s FLOAT NOT NULL, 
	PRIMARY KEY (sequence), 
	UNIQUE (run_id, round, device_id), 
	FOREIGN KEY(run_id, round, device_id) REFERENCES orders (run_id, round, device_id)
);
INSERT INTO "reports" VALUES(1,'run-0d04d6c521',1,'a',X'0A0E72756E2D3064303464366335323110011A01612215706C616E2D383536383365613734663831623238352A477368613235363A366431356262336538613962383931326366356139363363653730306463633837613131353138656561393131636535653762646537393463633761393236333211686561642D376230373631633965313238380540054828510000000000001440580161000000000000004069000000000000F03F72200A0E61692D656467652D6C69746572741205322E332E301A07786E6E7061636B7A2C080211000000000000F03F19000000000000F03F2801320B696E613231393A74657374397B14AE47E17A843F7A2C080311000000000000004019000000000000F03F2801320B696E613231393A74657374397B14AE47E17A843F7A2C080411000000000000E03F19000000000000F03F2801320B696E613231393A74657374397B14AE47E17A843F82011B0A086F75745F626961731201031A0C0000803F0000803F0000803F82015A0A0A6F75745F6B65726E656C120206031A480000803F0000803F0000803F0000803F0000803F0000803F0000803F0000803F0000803F0000803F0000803F0000803F0000803F0000803F0000803F0000803F0000803F0000803F88012891019A9999999999B93F',X'6B97EA8657801DEFF136BC6023579ECD7FFB2D77B68AD9CF66CB4E8DF77B1045',200.0,5,40,'completed',1.0,40,1.79593417000532245631e+09);
CREATE TABLE round_plans (
	run_id VARCHAR(64) NOT NULL, 
	round INTEGER NOT NULL, 
	weight FLOAT, 
	work FLOAT, 
	weights TEXT NOT NULL, 
	bias TEXT NOT NULL, 
	PRIMARY KEY (run_id, round), 
	FOREIGN KEY(run_id, round) REFERENCES rounds (run_id, round)
);
INSERT INTO "round_plans" VALUES('run-0d04d6c521',1,NULL,NULL,'{}','{"from_plan": 0.0, "from_plan_ratio": 1.0, "from_examples": 0.0, "from_examples_ratio": 1.0, "left_out": []}');
CREATE TABLE rounds (
	run_id VARCHAR(64) NOT NULL, 
	round INTEGER NOT NULL, 
	state VARCHAR(16) NOT NULL, 
	attempt INTEGER NOT NULL, 
	accuracy FLOAT, 
	loss FLOAT, 
	opened_unix_s FLOAT NOT NULL, 
	closed_unix_s FLOAT, 
	head_version VARCHAR(64), 
	PRIMARY KEY (run_id, round), 
	FOREIGN KEY(run_id) REFERENCES runs (run_id), 
	FOREIGN KEY(head_version) REFERENCES heads (version)
);
INSERT INTO "rounds" VALUES('run-0d04d6c521',0,'closed',1,NULL,NULL,1.79593416995869374274e+09,1.79593416995869374274e+09,'head-7b0761c9e128');
INSERT INTO "rounds" VALUES('run-0d04d6c521',1,'abandoned',1,NULL,NULL,1.79593416998285508156e+09,1.79593417201639866834e+09,NULL);
CREATE TABLE runs (
	run_id VARCHAR(64) NOT NULL, 
	sequence INTEGER NOT NULL, 
	name VARCHAR(256) NOT NULL, 
	state VARCHAR(16) NOT NULL, 
	reason TEXT NOT NULL, 
	plan_id VARCHAR(64) NOT NULL, 
	plan_toml TEXT NOT NULL, 
	plan_directory TEXT NOT NULL, 
	bundle_id VARCHAR(128) NOT NULL, 
	rounds_planned INTEGER NOT NULL, 
	initial_head VARCHAR(64) NOT NULL, 
	engine VARCHAR(256), 
	evaluation_key VARCHAR(128), 
	started_unix_s FLOAT NOT NULL, 
	finished_unix_s FLOAT, 
	PRIMARY KEY (run_id), 
	UNIQUE (sequence), 
	FOREIGN KEY(initial_head) REFERENCES heads (version)
);
INSERT INTO "runs" VALUES('run-0d04d6c521',1,'test','running','','plan-85683ea74f81b285','[run]
bundle = "plain"
name = "test"
rounds = 2
seed = 7
[round]
devices = 3
deadline_s = 2
quorum = 1.0
[train]
epochs = 1

[update]
codec = "float32"
[budget]
per_round_j = 5
','/srv/plans','sha256:6d15bb3e8a9b8912cf5a963ce700dcc87a11518eea911ce5e7bde794cc7a9263',2,'head-7b0761c9e128','ai-edge-litert/xnnpack',NULL,1.79593416992531585696e+09,NULL);
CREATE TABLE shown (
	run_id VARCHAR(64) NOT NULL, 
	version VARCHAR(64) NOT NULL, 
	PRIMARY KEY (run_id), 
	FOREIGN KEY(run_id) REFERENCES runs (run_id), 
	FOREIGN KEY(version) REFERENCES heads (version)
);
CREATE TABLE strains (
	run_id VARCHAR(64) NOT NULL, 
	round INTEGER NOT NULL, 
	device_id VARCHAR(256) NOT NULL, 
	heat_s FLOAT NOT NULL, 
	busy_s FLOAT NOT NULL, 
	hottest_c FLOAT, 
	throttled BOOLEAN NOT NULL, 
	under_voltage BOOLEAN NOT NULL, 
	PRIMARY KEY (run_id, round, device_id), 
	FOREIGN KEY(run_id, round, device_id) REFERENCES orders (run_id, round, device_id)
);
CREATE INDEX ix_runs_name ON runs (name);
CREATE INDEX ix_events_run_id ON events (run_id);
CREATE INDEX energy_of_device ON energy (device_id);
CREATE INDEX grants_of_device ON grants (device_id);
COMMIT;
