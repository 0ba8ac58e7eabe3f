// Publishes events as fast as the daemon takes them, from connections of their own: publish SOCKET PUBLISHERS EACH
// Each event says who published it, as what number, and when (nanoseconds since 1970).
package main

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/containerd/containerd"
	apievents "github.com/containerd/containerd/api/events"
	"github.com/containerd/containerd/namespaces"
)

func number(text string) int {
	n, err := strconv.Atoi(text)
	if err != nil {
		panic(err)
	}
	return n
}

func main() {
	publishers, each := number(os.Args[2]), number(os.Args[3])
	ctx := namespaces.WithNamespace(context.Background(), "bench")
	var group sync.WaitGroup
	began := time.Now()
	for p := 0; p < publishers; p++ {
		client, err := containerd.New(os.Args[1])
		if err != nil {
			panic(err)
		}
		group.Add(1)
		go func(p int) {
			defer group.Done()
			for n := 0; n < each; n++ {
				at := time.Now()
				id := fmt.Sprintf("%d/%d/%d", p, n, at.UnixNano())
				exit := &apievents.TaskExit{ContainerID: id, ID: id, Pid: 4711, ExitStatus: 137, ExitedAt: at}
				if err := client.EventService().Publish(ctx, "/bench/event", exit); err != nil {
					panic(err)
				}
			}
		}(p)
	}
	group.Wait()
	fmt.Printf("%f\n", float64(publishers*each)/time.Since(began).Seconds())
}
