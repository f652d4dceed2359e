// Command collector is the OTLP receiver of the OpenTelemetry Collector in a process of its own. It says on standard
// output where it listens, and then each span that it receives, one JSON object a line.
package main

import (
	"context"
	"encoding/json"
	"log"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/receiver"
	"go.opentelemetry.io/collector/receiver/otlpreceiver"
)

var output sync.Mutex

func say(line map[string]any) error {
	output.Lock()
	defer output.Unlock()
	return json.NewEncoder(os.Stdout).Encode(line)
}

func show(_ context.Context, traces ptrace.Traces) error {
	for _, resource := range traces.ResourceSpans().All() {
		for _, scope := range resource.ScopeSpans().All() {
			for _, span := range scope.Spans().All() {
				err := say(map[string]any{
					"event":      "span",
					"resource":   resource.Resource().Attributes().AsRaw(),
					"name":       span.Name(),
					"kind":       span.Kind().String(),
					"trace":      span.TraceID().String(),
					"span":       span.SpanID().String(),
					"parent":     span.ParentSpanID().String(),
					"state":      span.TraceState().AsRaw(),
					"status":     span.Status().Code().String(),
					"attributes": span.Attributes().AsRaw(),
				})
				if err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// must ends the program when something has failed.
func must[T any](made T, err error) T {
	if err != nil {
		log.Fatal(err)
	}
	return made
}

func main() {
	address := os.Args[1]
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	factory := otlpreceiver.NewFactory()
	config := factory.CreateDefaultConfig().(*otlpreceiver.Config)
	config.HTTP = nil
	config.GRPC.NetAddr.Endpoint = address
	settings := receiver.Settings{
		ID:                component.NewID(factory.Type()),
		TelemetrySettings: componenttest.NewNopTelemetrySettings(),
	}
	receiving := must(factory.CreateTraces(ctx, settings, config, must(consumer.NewTraces(show))))
	if err := receiving.Start(ctx, componenttest.NewNopHost()); err != nil {
		log.Fatal(err)
	}
	if err := say(map[string]any{"event": "listening", "address": address}); err != nil {
		log.Fatal(err)
	}
	<-ctx.Done()
	if err := receiving.Shutdown(context.Background()); err != nil {
		log.Fatal(err)
	}
}
